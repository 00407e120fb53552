package spec

// History visibilities. Spec: client-server-api#room-history-visibility
const (
	visibilityWorldReadable = "world_readable"
	visibilityInvited       = "invited"
	visibilityJoined        = "joined"
)

var keyHistoryVisibility = StateKey{Type: TypeHistoryVisibility}

// RoomView is what a room state says about who sees what is sent under it.
type RoomView struct {
	// Visibility is history_visibility; anything unknown, and "", is shared.
	Visibility string
	// Membership is that of the user who asks, "" if the state has none.
	Membership string
}

// VisibilityInput is what decides whether a user may see an event.
type VisibilityInput struct {
	// Before and After are the state before and after the event. They differ
	// only where the event itself changes the visibility or the user's membership.
	Before, After RoomView
	// JoinedLater: the user joined the room at any point after the event. To be
	// in the room at present counts, to have left it again does not undo it.
	JoinedLater bool
}

// Visible tells whether a user may see an event. An event that changes the
// history visibility, or the user's own membership, may be seen if the value
// before or the one after it allows that.
// Spec: client-server-api#room-history-visibility
func Visible(in VisibilityInput) bool {
	for _, visibility := range [2]string{in.Before.Visibility, in.After.Visibility} {
		for _, membership := range [2]string{in.Before.Membership, in.After.Membership} {
			if visible(visibility, membership, in.JoinedLater) {
				return true
			}
		}
	}
	return false
}

// visible is the list of rules.
// Spec: client-server-api#room-history-visibility
func visible(visibility, membership string, joinedLater bool) bool {
	switch {
	case visibility == visibilityWorldReadable, membership == membershipJoin: // 1, 2
		return true
	case visibility == visibilityInvited:
		return membership == membershipInvite // 4
	case visibility == visibilityJoined:
		return false // 5
	}
	return joinedLater // 3: shared, which is also the default
}

// VisibleToServer tells whether a server may see an event: whether the history
// is world readable or shared, or else one of its users would be let see it for
// membership alone. memberships are those of the server's users, before and
// after the event where it changes one. It is asked of servers in the room only.
// Spec: client-server-api#room-history-visibility
func VisibleToServer(before, after string, memberships []string) bool {
	for _, visibility := range [2]string{before, after} {
		if visibility != visibilityInvited && visibility != visibilityJoined {
			return true
		}
		for _, membership := range memberships {
			if visible(visibility, membership, false) {
				return true
			}
		}
	}
	return false
}

// ViewOf reads from a state what Visible needs to know about a user.
func ViewOf(user UserID, state StateReader) (RoomView, error) {
	visibility, err := state(keyHistoryVisibility)
	if err != nil {
		return RoomView{}, err
	}
	membership, err := state(keyMember(user))
	if err != nil {
		return RoomView{}, err
	}
	return RoomView{}.After(visibility, user).After(membership, user), nil
}

// After returns the view after an event before which it was v. The event must be
// an accepted one; nil changes nothing.
func (v RoomView) After(ev *Event, user UserID) RoomView {
	switch {
	case ev == nil:
	case ev.StateKeyIs(TypeHistoryVisibility, ""):
		v.Visibility, _ = getText(ev.Content, "history_visibility")
	case ev.StateKeyIs(TypeMember, string(user)):
		v.Membership = ev.Membership()
	}
	return v
}
