package server

import (
	"errors"

	"atoll/spec"
	"atoll/storage"
)

// reader is a user who looks at a room: it knows what they may see and how
// events look to them. Used by one goroutine, for one answer.
type reader struct {
	src    *source
	room   int64
	user   spec.UserID
	device string

	// Paths of the two keys that decide about visibility.
	memberPath, visibilityPath spec.Hash
	// views remembers what states say about the user, by root; the last one
	// apart, as neighbours mostly share it.
	lastRoot spec.Hash
	lastView rootView
	views    map[spec.Hash]rootView

	// joined: the user is in the room. Otherwise joinedTo, if joinedEver, is the
	// place in the timeline at which they were last joined.
	joined     bool
	joinedEver bool
	joinedTo   storage.TimelineKey
	joinEnd    *storage.EventRow // what ended the last join
	leftJoined bool              // and that is the membership in force
}

// rootView is what a state says to the reader.
type rootView struct {
	spec.RoomView
	known bool
}

var visibilityKey = spec.StateKey{Type: spec.TypeHistoryVisibility}

// visibilityStatePath is where every room has its history visibility.
var visibilityStatePath = spec.StatePath(visibilityKey)

func memberKeyOf(user spec.UserID) spec.StateKey {
	return spec.StateKey{Type: spec.TypeMember, Key: string(user)}
}

// reader returns the reader for a user whose membership event in force is given;
// nil for one who never had any.
func (src *source) reader(room int64, user spec.UserID, device string, member *storage.EventRow) (*reader, error) {
	r := &reader{
		src: src, room: room, user: user, device: device,
		memberPath: spec.StatePath(memberKeyOf(user)), visibilityPath: visibilityStatePath,
	}
	return r, r.findLastJoin(member)
}

// membershipHops is how many of a user's memberships are looked at to find when
// they were last joined.
const membershipHops = 64

// findLastJoin goes back from membership to membership until the user is joined.
func (r *reader) findLastJoin(member *storage.EventRow) error {
	for hop := 0; member != nil && hop < membershipHops; hop++ {
		if member.Event.Membership() == "join" {
			r.joined, r.leftJoined = hop == 0, hop == 1
			r.joinedEver = true
			return nil
		}
		// What came before this membership was sent at or before the end of the
		// last join, if the one before is that.
		r.joinedTo, r.joinEnd = member.Key(), member
		if member.Kind == storage.StateNone || member.Kind == storage.StateWaiting {
			return nil // from outside: nothing is known before it
		}
		nid, err := r.src.stateNID(r.room, member.Before, r.memberPath)
		if err != nil || nid == 0 {
			return err
		}
		if member, err = r.src.event(nid); err != nil {
			return err
		}
	}
	return nil
}

// view returns what the state of a root says.
func (r *reader) view(root spec.Hash) (spec.RoomView, error) {
	if r.lastView.known && root == r.lastRoot {
		return r.lastView.RoomView, nil
	}
	v, ok := r.views[root]
	if !ok {
		if err := r.readView(root, &v.RoomView); err != nil {
			return v.RoomView, err
		}
		v.known = true
		r.remember(root, v.RoomView)
	}
	r.lastRoot, r.lastView = root, v
	return v.RoomView, nil
}

func (r *reader) readView(root spec.Hash, v *spec.RoomView) error {
	for _, path := range [2]spec.Hash{r.visibilityPath, r.memberPath} {
		nid, err := r.src.stateNID(r.room, root, path)
		if err != nil {
			return err
		}
		if nid == 0 {
			continue
		}
		row, err := r.src.event(nid)
		if err != nil {
			return err
		}
		*v = v.After(row.Event, r.user)
	}
	return nil
}

// remember notes what the state of a root says.
func (r *reader) remember(root spec.Hash, v spec.RoomView) {
	if r.views == nil {
		r.views = map[spec.Hash]rootView{}
	}
	r.views[root] = rootView{v, true}
}

// around returns what the states before and after an event say. They are the
// same but for what the event itself says, so along a timeline, in whichever
// direction, hardly any state is ever looked into.
func (r *reader) around(row *storage.EventRow) (before, after spec.RoomView, err error) {
	if _, known := r.views[row.Before]; !known && !r.concerns(row.Event) {
		if v, ok := r.views[row.After]; ok {
			r.remember(row.Before, v.RoomView)
		}
	}
	if before, err = r.view(row.Before); err != nil {
		return before, after, err
	}
	after = before.After(row.Event, r.user)
	if row.After != row.Before {
		r.remember(row.After, after)
	}
	return before, after, nil
}

// concerns reports whether an event changes what states say to the reader.
func (r *reader) concerns(ev *spec.Event) bool {
	return ev.StateKeyIs(spec.TypeHistoryVisibility, "") || ev.StateKeyIs(spec.TypeMember, string(r.user))
}

// visible reports whether the reader may see an event of the timeline.
// Spec: client-server-api#room-history-visibility
func (r *reader) visible(row *storage.EventRow) (bool, error) {
	before, after, err := r.around(row)
	if err != nil {
		return false, err
	}
	return spec.Visible(spec.VisibilityInput{
		Before: before, After: after,
		JoinedLater: r.joined || r.joinedEver && row.Key().Compare(r.joinedTo) < 0,
	}), nil
}

// format returns what the client form of an event has beside the event. Errors
// are the database's.
func (r *reader) format(row *storage.EventRow) (spec.ClientFormat, error) {
	f := spec.ClientFormat{}
	_, after, err := r.around(row)
	if err != nil {
		return f, err
	}
	// Spec: client-server-api#room-event-format: unsigned.membership, v1.11
	if f.Membership = after.Membership; f.Membership == "" {
		f.Membership = "leave"
	}
	if row.Event.Sender == r.user && r.device != "" {
		f.TxnID = r.src.rooms.txns.idOf(r.user, r.device, row.Event.ID)
	}
	if age := r.src.rooms.ms() - row.Event.OriginServerTS; age > 0 {
		f.Age = age
	}
	if row.Event.IsState() {
		if err := r.replaced(row, &f); err != nil {
			return f, err
		}
	}
	return f, r.redaction(row, &f)
}

// redaction fills in what redacted the event.
func (r *reader) redaction(row *storage.EventRow, f *spec.ClientFormat) error {
	if row.RedactedBy == 0 {
		return nil
	}
	by, err := r.src.event(row.RedactedBy)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err == nil {
		f.RedactedBecause = by.Event
	}
	return err
}

// replaced fills in the state that the event replaced; its content only if the
// reader may see it.
func (r *reader) replaced(row *storage.EventRow, f *spec.ClientFormat) error {
	nid, err := r.src.stateNID(r.room, row.Before, spec.StatePath(row.Event.Key()))
	if err != nil || nid == 0 || nid == row.NID {
		return err
	}
	old, err := r.src.event(nid)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	f.ReplacesState = old.Event.ID
	if !old.InTimeline() {
		return nil
	}
	visible, err := r.visible(old)
	if visible {
		f.PrevContent = old.Event.Content
	}
	return err
}

// shown reports whether an event is shown to anybody at all: a redaction that
// does nothing is not. Spec: rooms/v3#handling-redactions
func (r *reader) shown(row *storage.EventRow) (bool, error) {
	if row.Event.Type != spec.TypeRedaction || row.Event.Redacts == "" || row.RedactedBy != 0 {
		return true, nil
	}
	target, err := r.src.eventByID(r.room, row.Event.Redacts)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return target.RedactedBy != 0 || target.Event.Type == spec.TypeCreate, nil
}
