package federation

import "atoll/spec"

// shutOut returns the server of a user whose membership somebody else ended, ""
// if the event is none such: it may be in the room no more than an invite or a
// knock puts it there, and has to hear that this is over. One that cannot be
// reached for long does not hear of it. A ban of somebody who never had to do
// with the room concerns nobody there; it cites no membership of theirs.
// Spec: server-server-api#inviting-to-a-room, #knocking-rooms
func shutOut(ev *spec.Event) spec.ServerName {
	if ev.Type != spec.TypeMember || ev.State == nil || *ev.State == string(ev.Sender) {
		return ""
	}
	target, err := spec.ParseUserID(*ev.State)
	others := 3 // create, power levels, the sender's membership
	if ev.Rules.RoomIDIsCreateHash {
		others = 2
	}
	switch now := ev.Membership(); {
	case err != nil, now != "leave" && now != "ban", len(ev.Auth) <= others:
		return ""
	}
	return target.Server()
}
