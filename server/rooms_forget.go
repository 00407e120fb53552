package server

import (
	"context"
	"errors"

	"atoll/spec"
	"atoll/storage"
)

// Forget makes a user who left a room, or was banned from it, lose sight of its
// history until they come in, are invited or knock again. Doing it twice is fine.
// M_UNKNOWN with 400 for who is in the room, invited or knocking; M_NOT_FOUND for
// who never had to do with it.
// Spec: client-server-api#post_matrixclientv3roomsroomidforget
func (rs *Rooms) Forget(ctx context.Context, id spec.RoomID, user spec.UserID) error {
	for {
		row, err := rs.membership(ctx, id, user)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return spec.Errorf(spec.CodeNotFound, err, "you were never in this room")
		case err != nil:
			return err
		case row.Membership != "leave" && row.Membership != "ban":
			return badRequest(spec.CodeUnknown, "leave the room before you forget it")
		case row.Forgotten:
			return nil
		}
		done := false
		err = rs.write(ctx, func(tx *storage.Tx) (_ []storage.LogEntry, err error) {
			if done, err = tx.ForgetRoom(row); err != nil || !done {
				return nil, err
			}
			return []storage.LogEntry{{Kind: storage.LogMembership, RoomNID: row.RoomNID, User: user, EventNID: row.EventNID}}, nil
		})
		if err != nil || done {
			return err
		}
		// The membership has just changed.
	}
}
