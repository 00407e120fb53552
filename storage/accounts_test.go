package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

func TestAccountRows(t *testing.T) {
	db, err := Open(t.Context(), Options{Database: "sqlite:" + filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	write := func(fn func(tx *Tx) error) error {
		t.Helper()
		return db.Write(t.Context(), fn)
	}

	t.Run("a name is taken once, also after deactivation", func(t *testing.T) {
		alice := UserRow{User: "@alice:hs", PasswordHash: "h", Admin: true, Suspended: true, Created: 5}
		if err := write(func(tx *Tx) error { return tx.InsertUser(alice) }); err != nil {
			t.Fatal(err)
		}
		err := write(func(tx *Tx) error {
			if got, err := tx.User(alice.User); err != nil || got != alice {
				t.Errorf("read back as %+v, %v", got, err)
			}
			if err := tx.DeactivateUser(UserDeactivation{User: alice.User, At: 9, Erase: true}); err != nil {
				return err
			}
			if err := tx.DeactivateUser(UserDeactivation{User: alice.User, At: 10}); err != nil {
				return err
			}
			got, err := tx.User(alice.User)
			if want := (UserRow{User: alice.User, Admin: true, Suspended: true, Erased: true, Created: 5, Deactivated: 9}); got != want {
				t.Errorf("after deactivation %+v, want %+v", got, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := write(func(tx *Tx) error { return tx.InsertUser(alice) }); !errors.Is(err, ErrConstraint) {
			t.Errorf("the name again: %v", err)
		}
	})

	t.Run("what is not there is said so", func(t *testing.T) {
		for claim, fn := range map[string]func(tx *Tx) error{
			"user":       func(tx *Tx) error { _, err := tx.User("@nobody:hs"); return err },
			"password":   func(tx *Tx) error { return tx.SetPasswordHash("@nobody:hs", "h") },
			"standing":   func(tx *Tx) error { return tx.SetUserStanding(UserRow{User: "@nobody:hs"}) },
			"deactivate": func(tx *Tx) error { return tx.DeactivateUser(UserDeactivation{User: "@nobody:hs"}) },
			"session":    func(tx *Tx) error { _, err := tx.Session([]byte("x")); return err },
			"device":     func(tx *Tx) error { return tx.RenameDevice("@nobody:hs", "D", "x") },
			"token":      func(tx *Tx) error { return tx.UseRegistrationToken("x", 0) },
			"alias":      func(tx *Tx) error { return tx.DeleteAlias("#x:hs") },
			"filter":     func(tx *Tx) error { _, err := tx.Filter("@nobody:hs", "x"); return err },
		} {
			if err := write(fn); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", claim, err)
			}
		}
	})

	t.Run("a later use of a device is not overwritten by an earlier one", func(t *testing.T) {
		err := write(func(tx *Tx) error {
			if isNew, err := tx.InsertDevice(DeviceRow{User: "@a:hs", Device: "D", Name: "n"}); err != nil || !isNew {
				t.Errorf("a new device: %v, %v", isNew, err)
			}
			if isNew, err := tx.InsertDevice(DeviceRow{User: "@a:hs", Device: "D", Name: "other"}); err != nil || isNew {
				t.Errorf("the device again: %v, %v", isNew, err)
			}
			if err := tx.NoteDevicesSeen([]DeviceSeen{
				{User: "@a:hs", Device: "D", At: 7, IP: "ip", UserAgent: "ua"}, {User: "@a:hs", Device: "D", At: 6}, {User: "@a:hs", Device: "gone", At: 6},
			}); err != nil {
				return err
			}
			devices, err := tx.Devices("@a:hs")
			if want := (DeviceRow{User: "@a:hs", Device: "D", Name: "n", LastSeen: 7, LastIP: "ip", LastUserAgent: "ua"}); len(devices) != 1 || devices[0] != want {
				t.Errorf("devices %+v", devices)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})

	t.Run("only the newest filters are kept", func(t *testing.T) {
		err := write(func(tx *Tx) error {
			for i := range 5 {
				if err := tx.PutFilter(FilterRow{User: "@a:hs", ID: fmt.Sprint(i), Content: []byte("{}"), Used: int64(i)}, 3); err != nil {
					return err
				}
			}
			for i := range 5 {
				if _, err := tx.Filter("@a:hs", fmt.Sprint(i)); (err == nil) != (i >= 2) {
					t.Errorf("filter %d: %v", i, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})

	t.Run("aliases move with an upgrade", func(t *testing.T) {
		err := write(func(tx *Tx) error {
			if err := tx.InsertAlias(AliasRow{Alias: "#a:hs", Room: "!old:hs", Creator: "@a:hs"}); err != nil {
				return err
			}
			if err := tx.MoveAliases("!old:hs", "!new:hs"); err != nil {
				return err
			}
			got, err := tx.RoomAliases("!new:hs")
			if len(got) != 1 || got[0].Alias != "#a:hs" || got[0].Creator != "@a:hs" {
				t.Errorf("aliases of the new room: %+v", got)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})

	t.Run("rows of one unit whose keys look alike are all written", func(t *testing.T) {
		a := &AccountDataRow{User: "@a:hs", Room: "!r:hs", Type: "x", Content: []byte(`{"in":"room"}`), Entry: 1}
		b := &AccountDataRow{User: "@a:hs", Room: "", Type: "!r:hsx", Content: []byte(`{"in":"none"}`), Entry: 1}
		unit := &Unit{Log: []LogEntry{{Kind: LogAccountData, User: "@a:hs"}}, Extra: []Row{a, b}}
		done, err := db.Commit(t.Context(), unit)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Read(t.Context(), func(tx *Tx) error {
			rows, err := tx.AccountDataRange("@a:hs", done.First-1, done.Last)
			if len(rows) != 2 {
				t.Errorf("stored %+v", rows)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
