package server

import (
	"slices"

	"github.com/go-json-experiment/json"

	"atoll/spec"
	"atoll/storage"
)

// RoomSummary is what clients show of a room.
type RoomSummary struct {
	Joined, Invited int64
	// Heroes name a room without a name; nil where it has one.
	Heroes []spec.UserID
}

const (
	heroesMost = 5
	// heroesOrdered is up to how many members the heroes are those who came
	// first. In larger rooms, which mostly have a name, they are just any.
	heroesOrdered = 1000
)

// roomSummary is a room's summary for all users. Not changed once made.
type roomSummary struct {
	at              int64 // log position as of which it holds, or later
	joined, invited int64
	named           bool
	inside, outside []spec.UserID // who may be heroes: joined or invited; left or banned
}

// summary returns the room's summary as the user sees it.
// Spec: client-server-api#get_matrixclientv3sync
func (src *source) summary(t *roomTask) (*RoomSummary, error) {
	w := t.window
	src.s.mu.Lock()
	known := w.summary
	if known != nil && known.at < w.memberPos {
		known = nil
	}
	src.s.mu.Unlock()
	if known == nil {
		var err error
		if known, err = src.readSummary(t); err != nil {
			return nil, err
		}
		src.s.mu.Lock()
		w.summary = known
		src.s.mu.Unlock()
	}
	out := &RoomSummary{Joined: known.joined, Invited: known.invited}
	if known.named {
		return out, nil
	}
	out.Heroes = []spec.UserID{}
	for _, list := range [2][]spec.UserID{known.inside, known.outside} {
		for _, user := range list {
			if user != t.plan.req.User && len(out.Heroes) < heroesMost {
				out.Heroes = append(out.Heroes, user)
			}
		}
		if len(out.Heroes) > 0 {
			break
		}
	}
	return out, nil
}

func (src *source) readSummary(t *roomTask) (*roomSummary, error) {
	tx, err := src.database()
	if err != nil {
		return nil, err
	}
	room, err := tx.RoomByNID(t.RoomNID)
	if err != nil {
		return nil, err
	}
	out := &roomSummary{at: t.plan.now.Pos, joined: room.Joined, invited: room.Invited}
	for k, member := range map[string]string{typeName: "name", typeCanonicalAlias: "alias"} {
		row, err := src.stateEvent(t.RoomNID, room.Root, spec.StateKey{Type: k})
		if err != nil {
			return nil, err
		}
		if row != nil && textMember(row.Event.Content, member) != "" {
			out.named = true
			return out, nil
		}
	}
	ordered := room.Joined+room.Invited <= heroesOrdered
	// One more than needed, as the user who asks is none.
	if out.inside, err = heroes(tx, t.RoomNID, ordered, "join", "invite"); err != nil {
		return nil, err
	}
	if len(out.inside) < 2 {
		out.outside, err = heroes(tx, t.RoomNID, ordered, "leave", "ban")
	}
	return out, err
}

func heroes(tx *storage.Tx, room int64, ordered bool, memberships ...string) ([]spec.UserID, error) {
	rows, err := tx.FirstMembers(room, memberships, heroesMost+1, ordered)
	var out []spec.UserID
	for _, row := range rows {
		out = append(out, row.User)
	}
	return slices.Clip(out), err
}

// textMember returns a member of a JSON object that is a string, "" for all
// else.
func textMember(object []byte, name string) string {
	var members map[string]any
	if !hasMember(object, name) || json.Unmarshal(object, &members) != nil {
		return ""
	}
	s, _ := members[name].(string)
	return s
}
