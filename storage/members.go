package storage

import (
	"atoll/spec"
)

const memberColumns = `room_nid, user_id, membership, event_nid, pos, forgotten, outside, stripped`

var (
	selectMembership  = query(`SELECT ` + memberColumns + ` FROM memberships WHERE user_id = $1 AND room_nid = $2`)
	selectMemberships = query(`SELECT ` + memberColumns + ` FROM memberships WHERE user_id = $1 ORDER BY room_nid`)
	selectMembers     = query(`SELECT ` + memberColumns + ` FROM memberships
		WHERE room_nid = $1 AND membership = ANY($2::text[]) ORDER BY membership, user_id`)
	forgetRoom = query(`UPDATE memberships SET forgotten = TRUE
		WHERE user_id = $1 AND room_nid = $2 AND event_nid = $3 AND membership IN ('leave', 'ban')`)
	selectAllMembers = query(`SELECT ` + memberColumns + ` FROM memberships WHERE room_nid = $1 ORDER BY membership, user_id`)
)

// Membership returns the membership of a user in a room; ErrNotFound if there
// never was one.
func (tx *Tx) Membership(roomNID int64, user spec.UserID) (MembershipRow, error) {
	rows, err := tx.memberships(selectMembership, user, roomNID)
	if err == nil && len(rows) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return MembershipRow{}, err
	}
	return rows[0], nil
}

// Memberships returns the memberships of a user in all rooms, by room.
func (tx *Tx) Memberships(user spec.UserID) ([]MembershipRow, error) {
	return tx.memberships(selectMemberships, user)
}

// Members returns the memberships of a room that are one of those given, all
// of them if none is given; by membership and user.
func (tx *Tx) Members(roomNID int64, memberships ...string) ([]MembershipRow, error) {
	if len(memberships) == 0 {
		return tx.memberships(selectAllMembers, roomNID)
	}
	return tx.memberships(selectMembers, roomNID, memberships)
}

// ForgetRoom marks a room as forgotten by a user who left it or was banned, if
// the event that says so is still the one given; false if it is not.
func (tx *Tx) ForgetRoom(m MembershipRow) (bool, error) {
	n, err := tx.exec(forgetRoom, m.User, m.RoomNID, m.EventNID)
	return n > 0, err
}

func (tx *Tx) memberships(s *stmt, args ...any) ([]MembershipRow, error) {
	var out []MembershipRow
	err := tx.each(s, args, func(r *rows) error {
		out = append(out, MembershipRow{})
		m := &out[len(out)-1]
		return r.scan(&m.RoomNID, &m.User, &m.Membership, &m.EventNID, &m.Pos, &m.Forgotten, &m.Outside, &m.Stripped)
	})
	return out, err
}

// ServerInterval is a time during which a server had joined users in a room.
// It covers the positions from From to Until, both included; the last one is
// that of the event that removed its last user.
type ServerInterval struct {
	RoomNID     int64
	Server      spec.ServerName
	From, Until int64 // Until 0: still in the room
}

const serverColumns = `room_nid, server, from_pos, until_pos`

var (
	selectServersNow = query(`SELECT ` + serverColumns + ` FROM room_servers WHERE room_nid = $1 AND until_pos IS NULL ORDER BY server`)
	selectServersAt  = query(`SELECT ` + serverColumns + ` FROM room_servers
		WHERE room_nid = $1 AND from_pos <= $2 AND (until_pos IS NULL OR until_pos >= $2) ORDER BY server`)
	selectServerRooms    = query(`SELECT ` + serverColumns + ` FROM room_servers WHERE server = $1 ORDER BY room_nid, from_pos`)
	deleteServersEnded   = query(`DELETE FROM room_servers WHERE until_pos IS NOT NULL AND until_pos < $1`)
	selectCurrentServers = query(`SELECT DISTINCT server FROM room_servers WHERE until_pos IS NULL ORDER BY server`)
)

// RoomServers returns the servers that have joined users in a room, ours too.
func (tx *Tx) RoomServers(roomNID int64) ([]spec.ServerName, error) {
	return tx.servers(selectServersNow, roomNID)
}

// RoomServersAt returns the servers whose interval covers a position.
func (tx *Tx) RoomServersAt(roomNID, pos int64) ([]spec.ServerName, error) {
	return tx.servers(selectServersAt, roomNID, pos)
}

func (tx *Tx) servers(s *stmt, args ...any) ([]spec.ServerName, error) {
	list, err := tx.intervals(s, args...)
	out := make([]spec.ServerName, len(list))
	for i := range list {
		out[i] = list[i].Server
	}
	return out, err
}

// ServerRooms returns the rooms that a server is or was in.
func (tx *Tx) ServerRooms(server spec.ServerName) ([]ServerInterval, error) {
	return tx.intervals(selectServerRooms, server)
}

// Servers returns every server that has joined users in some room.
func (tx *Tx) Servers() ([]spec.ServerName, error) {
	var out []spec.ServerName
	err := tx.each(selectCurrentServers, nil, func(r *rows) error {
		var s spec.ServerName
		err := r.scan(&s)
		out = append(out, s)
		return err
	})
	return out, err
}

func (tx *Tx) intervals(s *stmt, args ...any) ([]ServerInterval, error) {
	var out []ServerInterval
	err := tx.each(s, args, func(r *rows) error {
		out = append(out, ServerInterval{})
		i := &out[len(out)-1]
		return r.scan(&i.RoomNID, &i.Server, &i.From, &i.Until)
	})
	return out, err
}

// PruneRoomServers forgets intervals that ended before a position, which no
// destination's cursor is behind any more. It returns how many went.
func (tx *Tx) PruneRoomServers(before int64) (int64, error) {
	return tx.exec(deleteServersEnded, before)
}
