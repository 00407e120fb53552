package server

import (
	"testing"

	"atoll/spec"
	"atoll/storage"
)

func TestPlaceTokens(t *testing.T) {
	t.Run("are read as they were written", func(t *testing.T) {
		want := SyncToken{Pos: 1 << 40, Epoch: 1_700_000_000_000, Counter: 7}
		if got, err := ParseSyncToken(want.String()); err != nil || got != want {
			t.Errorf("%s gave %v, %v", want, got, err)
		}
		place := timelineAfter(storage.TimelineKey{Depth: 12, NID: 34})
		got, err := ParseRoomToken(place.String())
		if err != nil || got.Sync != nil || got.Place != place {
			t.Errorf("%s gave %v, %v", place, got, err)
		}
		got, err = ParseRoomToken(want.String())
		if err != nil || got.Sync == nil || *got.Sync != want {
			t.Errorf("a sync token as place gave %v, %v", got, err)
		}
	})
	t.Run("05-005 04-031 a token that is none is M_INVALID_PARAM", func(t *testing.T) {
		for _, s := range []string{"", "s", "s1", "s1_2", "s1_2.", "s-1_2.3", "s+1_2.3", "s1_2.3x", "s99999999999999999999_0.0", "t1", "t1_", "t_1", "t1_-2", "x1_2", "12345"} {
			if _, err := ParseRoomToken(s); err == nil {
				t.Errorf("%q was taken as a token of a room", s)
			} else {
				wantCode(t, s, err, spec.CodeInvalidParam)
			}
			if _, err := ParseSyncToken(s); err == nil {
				t.Errorf("%q was taken as a sync token", s)
			}
		}
		if _, err := ParseSyncToken("t1_2"); err == nil {
			t.Error("a place in a timeline was taken as a sync token")
		}
	})
}
