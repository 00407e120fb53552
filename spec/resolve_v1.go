package spec

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"errors"
	"slices"
)

// resolveV1 is the algorithm of room version 1: conflicts are settled key by
// key, those on which others depend first. Spec: rooms/v1#state-resolution
func (r *resolver) resolveV1() error {
	byKey := map[StateKey][]*Event{}
	var keys []StateKey
	for _, n := range r.conflicted {
		ev, err := r.event(n.id)
		if err != nil {
			return err
		}
		if byKey[ev.Key()] == nil {
			keys = append(keys, ev.Key())
		}
		byKey[ev.Key()] = append(byKey[ev.Key()], ev)
	}
	// Only different events are a conflict here, one that some forks lack is not:
	// the union of the states has it without further ado.
	keys = slices.DeleteFunc(keys, func(k StateKey) bool {
		if len(byKey[k]) > 1 {
			return false
		}
		r.state[k] = byKey[k][0]
		return true
	})
	authTypes := []string{TypePowerLevels, TypeJoinRules, TypeMember}
	for _, eventType := range authTypes {
		settled := map[StateKey]*Event{}
		for _, k := range keys {
			if k.Type != eventType {
				continue
			}
			ev, err := r.lastAllowed(byKey[k])
			if err != nil {
				return err
			}
			settled[k] = ev
		}
		// The members are settled independently of each other.
		for k, ev := range settled {
			r.state[k] = ev
		}
	}
	for _, k := range keys {
		if slices.Contains(authTypes, k.Type) {
			continue
		}
		ev, err := r.deepestAllowed(byKey[k])
		if err != nil {
			return err
		}
		r.state[k] = ev
	}
	return nil
}

// lastAllowed goes through the events of one key from the least deep on, as long
// as each is allowed after those before it, and returns the last that was.
func (r *resolver) lastAllowed(events []*Event) (*Event, error) {
	slices.SortFunc(events, compareV1)
	last := events[0]
	for _, ev := range events[1:] {
		allowed, err := r.allowedV1(ev, last)
		if err != nil {
			return nil, err
		}
		if !allowed {
			break
		}
		last = ev
	}
	return last, nil
}

// deepestAllowed returns the deepest event that is allowed. The specification does
// not say what happens if none is; the servers that made these rooms then take
// the least deep one, and so do we, since only agreement counts.
func (r *resolver) deepestAllowed(events []*Event) (*Event, error) {
	slices.SortFunc(events, compareV1)
	for _, ev := range slices.Backward(events) {
		if allowed, err := r.allowedV1(ev, nil); err != nil || allowed {
			return ev, err
		}
	}
	return events[0], nil
}

// allowedV1 checks an event against what has been settled, the unconflicted
// state and, where it is not nil, the candidate for the event's own key.
func (r *resolver) allowedV1(ev, candidate *Event) (bool, error) {
	err := (&authorizer{ev: ev, rules: ev.Rules, cache: r.levels, state: func(k StateKey) (*Event, error) {
		if candidate != nil && candidate.Key() == k {
			return candidate, nil
		}
		if have := r.state[k]; have != nil {
			return have, nil
		}
		if id, err := r.unconflictedAt(k); err != nil || id == "" {
			return nil, err
		} else {
			return r.event(id)
		}
	}}).check()
	var refused *AuthError
	if errors.As(err, &refused) {
		return false, nil
	}
	return err == nil, err
}

// compareV1 sorts by ascending depth, then by descending SHA-1 of the event ID.
func compareV1(a, b *Event) int {
	if c := cmp.Compare(a.Depth, b.Depth); c != 0 {
		return c
	}
	sumA, sumB := sha1.Sum([]byte(a.ID)), sha1.Sum([]byte(b.ID))
	return bytes.Compare(sumB[:], sumA[:])
}
