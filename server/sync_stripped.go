package server

import (
	"atoll/spec"
	"atoll/storage"
)

// Event types that clients want to know about a room.
const (
	typeName           = "m.room.name"
	typeAvatar         = "m.room.avatar"
	typeTopic          = "m.room.topic"
	typeCanonicalAlias = "m.room.canonical_alias"
	typeEncryption     = "m.room.encryption"
)

// strippedKeys is what stripped state has, as far as the room has it.
// Spec: client-server-api#stripped-state
var strippedKeys = []spec.StateKey{
	{Type: spec.TypeCreate}, {Type: spec.TypeJoinRules}, {Type: typeName}, {Type: typeAvatar},
	{Type: typeTopic}, {Type: typeCanonicalAlias}, {Type: typeEncryption},
}

// strippedRoom adds a room to which the user is invited, or at which they knock.
func (src *source) strippedRoom(p *syncPlan, r *plannedRoom, out *SyncAnswer) error {
	member, err := src.event(r.EventNID)
	if err != nil {
		return err
	}
	if r.Membership == "invite" && (p.rules.blockInvites || p.rules.ignored[member.Event.Sender]) {
		return nil
	}
	room := StrippedRoom{ID: r.id, State: r.Stripped}
	if len(room.State) == 0 {
		if room.State, err = src.strippedState(r.RoomNID, member); err != nil {
			return err
		}
	}
	if r.Membership == "invite" {
		out.invite = append(out.invite, room)
	} else {
		out.knock = append(out.knock, room)
	}
	return nil
}

// strippedState makes the stripped state that goes with a membership event, as
// a JSON array.
func (src *source) strippedState(room int64, member *storage.EventRow) ([]byte, error) {
	dst := []byte{'['}
	if member.Kind == storage.StateRoot || member.Kind == storage.StatePartial {
		for _, k := range strippedKeys {
			row, err := src.stateEvent(room, member.Before, k)
			if err != nil {
				return nil, err
			}
			if row != nil {
				dst = append(append(dst, row.Event.StrippedState()...), ',')
			}
		}
	}
	dst = append(dst, member.Event.StrippedState()...)
	return append(dst, ']'), nil
}
