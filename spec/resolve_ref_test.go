package spec

import (
	"cmp"
	"crypto/sha1"
	"maps"
	"math"
	"slices"
	"testing"
)

// refResolver resolves states by writing down the definitions one after the other:
// it enumerates whole states, whole auth chains and all paths. It shares nothing
// with Resolve but Authorize and ParsePowerLevels.
// Spec: rooms/v2#state-resolution, rooms/v12#state-resolution
type refResolver struct {
	*graph
	t      testing.TB
	chains map[EventID]map[EventID]bool
}

func (g *graph) reference(t testing.TB, states []stateMap) stateMap {
	return (&refResolver{g, t, map[EventID]map[EventID]bool{}}).resolve(states)
}

func (r *refResolver) chain(id EventID) map[EventID]bool {
	if r.chains[id] == nil {
		r.chains[id] = r.authChain(id)
	}
	return r.chains[id]
}

func (r *refResolver) resolve(states []stateMap) stateMap {
	if r.rules.StateResolution == StateResolutionV1 {
		return r.resolveV1(states)
	}
	unconflicted, forks := split(states)
	full := map[EventID]bool{} // conflicted state set
	for _, fork := range forks {
		for _, id := range fork {
			full[id] = true
		}
	}
	if len(full) == 0 {
		return unconflicted
	}
	conflicted := slices.Collect(maps.Keys(full))
	for id := range r.authDifference(states) {
		full[id] = true
	}
	if r.rules.StateResolution == StateResolutionV21 {
		// z is on a path from x to y.
		for _, x := range conflicted {
			for _, y := range conflicted {
				for z := range r.chain(x) {
					if r.chain(z)[y] {
						full[z] = true
					}
				}
			}
		}
	}
	// Step 1
	picked := map[EventID]bool{}
	for id := range full {
		if r.isPower(r.events[id]) {
			picked[id] = true
			for a := range r.chain(id) {
				if full[a] {
					picked[a] = true
				}
			}
		}
	}
	// Step 2
	state := maps.Clone(unconflicted)
	if r.rules.StateResolution == StateResolutionV21 {
		state = stateMap{}
	}
	r.check(state, r.powerOrder(picked))
	// Steps 3 and 4
	rest := maps.Clone(full)
	maps.DeleteFunc(rest, func(id EventID, _ bool) bool { return picked[id] })
	r.check(state, r.mainlineOrder(state[keyPowerLevels], rest))
	// Step 5
	maps.Copy(state, unconflicted)
	return state
}

func (r *refResolver) authDifference(states []stateMap) map[EventID]bool {
	count := map[EventID]int{}
	for _, state := range states {
		chain := map[EventID]bool{}
		for _, id := range state {
			maps.Copy(chain, r.chain(id))
		}
		for id := range chain {
			count[id]++
		}
	}
	diff := map[EventID]bool{}
	for id, n := range count {
		if n < len(states) {
			diff[id] = true
		}
	}
	return diff
}

func (r *refResolver) isPower(ev *Event) bool {
	switch ev.Type {
	case "m.room.power_levels", "m.room.join_rules":
		return true
	case "m.room.member":
		return (ev.Membership() == "leave" || ev.Membership() == "ban") && string(ev.Sender) != *ev.State
	}
	return false
}

// powerOrder picks, as long as there are events, the smallest of those that have
// none of the others in their auth chains.
func (r *refResolver) powerOrder(set map[EventID]bool) (order []EventID) {
	left := slices.Collect(maps.Keys(set))
	for len(left) > 0 {
		var best EventID
		for _, x := range left {
			free := !slices.ContainsFunc(left, func(y EventID) bool { return r.chain(x)[y] })
			if free && (best == "" || r.comparePower(x, best) < 0) {
				best = x
			}
		}
		order = append(order, best)
		left = slices.DeleteFunc(left, func(x EventID) bool { return x == best })
	}
	return order
}

func (r *refResolver) comparePower(x, y EventID) int {
	return cmp.Or(cmp.Compare(r.power(y), r.power(x)), r.compareAge(x, y))
}

func (r *refResolver) compareAge(x, y EventID) int {
	return cmp.Or(cmp.Compare(r.events[x].OriginServerTS, r.events[y].OriginServerTS), cmp.Compare(x, y))
}

// power is the sender's level by the event's auth events.
func (r *refResolver) power(id EventID) int64 {
	ev := r.events[id]
	var create, levels *Event
	if r.rules.RoomIDIsCreateHash {
		create = r.events[ev.Room.CreateEvent()]
	} else if ev.Type == "m.room.create" {
		create = ev
	}
	for _, a := range ev.Auth {
		switch r.events[a].Type {
		case "m.room.create":
			create = r.events[a]
		case "m.room.power_levels":
			levels = r.events[a]
		}
	}
	p, err := ParsePowerLevels(r.rules, create, levels)
	if err != nil {
		r.t.Fatal(err)
	}
	return p.User(ev.Sender)
}

func (r *refResolver) check(state stateMap, order []EventID) {
	for _, id := range order {
		ev := r.events[id]
		auth := stateMap{}
		if create := ev.Room.CreateEvent(); r.rules.RoomIDIsCreateHash && !r.rejected[create] {
			auth[keyCreate] = create
		}
		for _, a := range ev.Auth {
			if !r.rejected[a] {
				auth[r.events[a].Key()] = a
			}
		}
		maps.Copy(auth, state)
		if Authorize(ev, r.reader(auth)) == nil {
			state[ev.Key()] = id
		}
	}
}

// levelsOf is the power levels event among the auth events; "" if there is none.
func (r *refResolver) levelsOf(id EventID) EventID {
	for _, a := range r.events[id].Auth {
		if r.events[a].Type == "m.room.power_levels" {
			return a
		}
	}
	return ""
}

func (r *refResolver) mainlineOrder(tip EventID, set map[EventID]bool) []EventID {
	var mainline []EventID
	for p := tip; p != ""; p = r.levelsOf(p) {
		mainline = append(mainline, p)
	}
	position := func(id EventID) int {
		for e := r.levelsOf(id); e != ""; e = r.levelsOf(e) {
			if i := slices.Index(mainline, e); i >= 0 {
				return i
			}
		}
		return math.MaxInt
	}
	return slices.SortedFunc(maps.Keys(set), func(x, y EventID) int {
		return cmp.Or(cmp.Compare(position(y), position(x)), r.compareAge(x, y))
	})
}

// resolveV1 goes through the passes of the first algorithm, each over all states.
// Spec: rooms/v1#state-resolution
func (r *refResolver) resolveV1(states []stateMap) stateMap {
	candidates := map[StateKey][]EventID{}
	for _, state := range states {
		for k, id := range state {
			if !slices.Contains(candidates[k], id) {
				candidates[k] = append(candidates[k], id)
			}
		}
	}
	result := stateMap{}
	for k, ids := range candidates {
		if len(ids) == 1 {
			result[k] = ids[0]
		} else {
			slices.SortFunc(ids, r.compareDepth)
		}
	}
	allowed := func(state stateMap, id EventID) bool { return Authorize(r.events[id], r.reader(state)) == nil }
	for _, eventType := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		before := maps.Clone(result)
		for k, ids := range candidates {
			pass := k.Type
			if pass != "m.room.power_levels" && pass != "m.room.join_rules" && pass != "m.room.member" {
				pass = ""
			}
			if len(ids) == 1 || pass != eventType {
				continue
			}
			if eventType == "" {
				result[k] = ids[0]
				for _, id := range ids {
					if allowed(before, id) {
						result[k] = id
					}
				}
				continue
			}
			state := maps.Clone(before)
			state[k] = ids[0]
			for _, id := range ids[1:] {
				if !allowed(state, id) {
					break
				}
				state[k] = id
			}
			result[k] = state[k]
		}
	}
	return result
}

func (r *refResolver) compareDepth(x, y EventID) int {
	sumX, sumY := sha1.Sum([]byte(x)), sha1.Sum([]byte(y))
	return cmp.Or(cmp.Compare(r.events[x].Depth, r.events[y].Depth), slices.Compare(sumY[:], sumX[:]))
}
