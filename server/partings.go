package server

import (
	"context"
	"errors"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// partRetry is how long a room that could not be left is left alone.
const partRetry = time.Minute

// partings takes deactivated users out of their rooms. Whose rooms are still to
// be left is in the database, so that it is done even if the process ends.
// Spec: client-server-api#post_matrixclientv3accountdeactivate
type partings struct {
	*base
	accounts *Accounts
	rooms    *Rooms
}

// run does so until ctx ends.
func (p *partings) run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.accounts.parting:
		case <-retry.C:
		}
		if err := p.partAll(ctx); err != nil && ctx.Err() == nil {
			p.log.Warn("a deactivated user could not leave all rooms yet", "err", err)
			retry.Reset(partRetry)
		}
	}
}

func (p *partings) partAll(ctx context.Context) error {
	var users []spec.UserID
	err := p.db.Read(ctx, func(tx *storage.Tx) (err error) {
		users, err = tx.Partings()
		return err
	})
	for _, user := range users {
		err = errors.Join(err, p.part(ctx, user))
	}
	return err
}

// part takes one user out of all rooms, and turns down invites and knocks.
func (p *partings) part(ctx context.Context, user spec.UserID) error {
	var ids map[int64]spec.RoomID
	err := p.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Memberships(user)
		if err != nil {
			return err
		}
		var nids []int64
		for _, row := range rows {
			if row.Membership != "leave" && row.Membership != "ban" {
				nids = append(nids, row.RoomNID)
			}
		}
		ids, err = tx.RoomIDs(nids)
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		leaveErr := p.rooms.Leave(ctx, ChangeMembership{Room: id, Sender: user, Target: user})
		if spec.CodeOf(leaveErr) != spec.CodeForbidden { // else they are out in another way
			err = errors.Join(err, leaveErr)
		}
	}
	if err != nil {
		return err
	}
	return p.db.Write(ctx, func(tx *storage.Tx) error { return tx.EndParting(user) })
}
