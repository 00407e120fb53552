package server

import (
	"strconv"
	"strings"

	"atoll/spec"
	"atoll/storage"
)

// Tokens name places for clients, who must not look into them. The first letter
// says what a token is, so a later form gets another letter.
//
//	s<pos>_<epoch>.<counter>   up to where a sync has told: a log position, and
//	                           how far what is not durable was told
//	t<depth>_<nid>             a place in a room's timeline: between what is
//	                           before that key and the event with it

// SyncToken is where a sync ended.
type SyncToken struct {
	// Pos is the log position up to which all was told.
	Pos int64
	// Epoch and Counter say how much of typing and presence was told. They live
	// in memory; another epoch means that nothing was.
	Epoch, Counter int64
}

// String returns the token as clients get it.
func (t SyncToken) String() string {
	b := make([]byte, 0, 32)
	b = strconv.AppendInt(append(b, 's'), t.Pos, 10)
	b = strconv.AppendInt(append(b, '_'), t.Epoch, 10)
	b = strconv.AppendInt(append(b, '.'), t.Counter, 10)
	return string(b)
}

// ParseSyncToken reads what String wrote; M_INVALID_PARAM for anything else.
func ParseSyncToken(s string) (SyncToken, error) {
	rest, ok := strings.CutPrefix(s, "s")
	pos, live, ok2 := strings.Cut(rest, "_")
	epoch, counter, ok3 := strings.Cut(live, ".")
	if !ok || !ok2 || !ok3 {
		return SyncToken{}, errToken(s)
	}
	var t SyncToken
	if !parseNumber(&t.Pos, pos) || !parseNumber(&t.Epoch, epoch) || !parseNumber(&t.Counter, counter) {
		return SyncToken{}, errToken(s)
	}
	return t, nil
}

// TimelineToken is a place in the timeline of a room: what is before the key
// lies behind it, the event with the key and what follows lie ahead, in
// whichever direction one reads on. Events that are filed later on either side
// do not move it.
type TimelineToken struct{ Key storage.TimelineKey }

// timelineBefore returns the place right before an event.
func timelineBefore(k storage.TimelineKey) TimelineToken { return TimelineToken{k} }

// timelineAfter returns the place right after an event.
func timelineAfter(k storage.TimelineKey) TimelineToken {
	k.NID++
	return TimelineToken{k}
}

// String returns the token as clients get it.
func (t TimelineToken) String() string {
	b := make([]byte, 0, 32)
	b = strconv.AppendInt(append(b, 't'), t.Key.Depth, 10)
	b = strconv.AppendInt(append(b, '_'), t.Key.NID, 10)
	return string(b)
}

// RoomToken is a token of either kind, as from and to may be: a place in the
// timeline, or the log position of a sync that is yet to be turned into one.
type RoomToken struct {
	Place TimelineToken
	// Sync is set for the token of a sync; Place is then not.
	Sync *SyncToken
}

// ParseRoomToken reads a token of /messages, /context or a sync;
// M_INVALID_PARAM for anything else.
func ParseRoomToken(s string) (RoomToken, error) {
	if strings.HasPrefix(s, "s") {
		t, err := ParseSyncToken(s)
		return RoomToken{Sync: &t}, err
	}
	rest, ok := strings.CutPrefix(s, "t")
	depth, nid, ok2 := strings.Cut(rest, "_")
	var t RoomToken
	if !ok || !ok2 || !parseNumber(&t.Place.Key.Depth, depth) || !parseNumber(&t.Place.Key.NID, nid) {
		return RoomToken{}, errToken(s)
	}
	return t, nil
}

// timelinePlace returns the place in a room's timeline that a token names: that
// of a sync is behind the last event that the sync could have told.
func timelinePlace(tx *storage.Tx, room int64, t RoomToken) (TimelineToken, error) {
	if t.Sync == nil {
		return t.Place, nil
	}
	k, err := tx.TimelineAt(room, t.Sync.Pos)
	if err != nil || k == (storage.TimelineKey{}) {
		return TimelineToken{}, err
	}
	return timelineAfter(k), nil
}

// parseNumber reads a decimal number without a sign.
func parseNumber(n *int64, s string) bool {
	v, err := strconv.ParseUint(s, 10, 63)
	*n = int64(v)
	return err == nil
}

func errToken(s string) error {
	return spec.Errorf(spec.CodeInvalidParam, nil, "%.40q is not a token of this server", s)
}
