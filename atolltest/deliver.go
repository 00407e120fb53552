package atolltest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"atoll/server/roomcore"
	"atoll/spec"
	"atoll/storage"
)

// deliver sends this server's events to the servers in their rooms, at once and
// once; what cannot be delivered is lost. It is as much of a sender as tests of
// the receiving side need.
func (s *Server) deliver(ctx context.Context) error {
	log := s.DB.Follow(0)
	for {
		entries, err := log.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Kind != storage.LogEvent || !strings.HasPrefix(e.Text, roomcore.LogOurs) {
				continue
			}
			if err := s.deliverOne(ctx, e); err != nil && ctx.Err() == nil {
				fmt.Fprintf(s, "not delivered: %v\n", err)
			}
		}
	}
}

func (s *Server) deliverOne(ctx context.Context, e storage.LogEntry) error {
	var event *spec.Event
	var servers []spec.ServerName
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.EventsByNIDs([]int64{e.EventNID})
		if err != nil || len(rows) == 0 {
			return err
		}
		event = rows[0].Event
		servers, err = tx.RoomServersAt(e.RoomNID, e.Pos)
		return err
	})
	if err != nil || event == nil {
		return err
	}
	if event.Type == spec.TypeMember && event.State != nil {
		if user, err := spec.ParseUserID(*event.State); err == nil {
			servers = append(servers, user.Server()) // an invite may be taken back so
		}
	}
	body, err := json.Marshal(map[string]any{
		"origin": s.Name(), "origin_server_ts": time.Now().UnixMilli(),
		"pdus": []json.RawMessage{event.AppendFederation(nil, 0)},
	})
	if err != nil {
		return err
	}
	done := map[spec.ServerName]bool{s.Name(): true, event.Sender.Server(): true}
	for _, to := range servers {
		if done[to] {
			continue
		}
		done[to] = true
		if _, err := s.Remote.SendTransaction(ctx, to, fmt.Sprintf("log%d", e.Pos), body); err != nil {
			fmt.Fprintf(s, "not delivered: %v\n", err)
		}
	}
	return nil
}
