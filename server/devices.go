package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"atoll/spec"
	"atoll/storage"
)

// maxDeviceName is the length of a device's display name in bytes.
const maxDeviceName = 256

// Device is one of a user's devices.
type Device struct {
	ID string
	// Name is the display name; empty if there is none.
	Name string
	// LastSeen is in milliseconds since the epoch, 0 if never; it and what
	// follows may be a minute behind.
	LastSeen      int64
	LastIP        string
	LastUserAgent string
}

// Devices lists a user's devices by id.
// Spec: client-server-api#get_matrixclientv3devices
func (a *Accounts) Devices(ctx context.Context, user spec.UserID) ([]Device, error) {
	var rows []storage.DeviceRow
	err := a.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.Devices(user)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the devices of %s: %w", user, err)
	}
	devices := make([]Device, len(rows))
	for i, r := range rows {
		devices[i] = a.deviceOf(r)
	}
	return devices, nil
}

// Device returns one device, M_NOT_FOUND if the user has none of that id.
func (a *Accounts) Device(ctx context.Context, user spec.UserID, id string) (Device, error) {
	devices, err := a.Devices(ctx, user)
	if err != nil {
		return Device{}, err
	}
	for _, d := range devices {
		if d.ID == id {
			return d, nil
		}
	}
	return Device{}, errNoDevice()
}

func errNoDevice() error { return spec.Errorf(spec.CodeNotFound, nil, "there is no such device") }

func (a *Accounts) deviceOf(r storage.DeviceRow) Device {
	d := Device{ID: r.Device, Name: r.Name, LastSeen: r.LastSeen, LastIP: r.LastIP, LastUserAgent: r.LastUserAgent}
	if seen, ok := a.seen.pending(r.User, r.Device); ok && seen.At > d.LastSeen {
		d.LastSeen, d.LastIP, d.LastUserAgent = seen.At, seen.IP, seen.UserAgent
	}
	return d
}

// RenameDevice sets a device's display name; an empty one removes it.
// M_NOT_FOUND if there is no such device, M_TOO_LARGE for a long name.
// Spec: client-server-api#put_matrixclientv3devicesdeviceid
func (a *Accounts) RenameDevice(ctx context.Context, user spec.UserID, id, name string) error {
	if len(name) > maxDeviceName {
		e := spec.Errorf(spec.CodeTooLarge, nil, "the name is longer than %d bytes", maxDeviceName)
		e.Status = 400
		return e
	}
	if !storable(name) {
		return spec.Errorf(spec.CodeInvalidParam, nil, "the name has a NUL in it")
	}
	if !storable(id) {
		return errNoDevice()
	}
	err := a.write(ctx, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		return []storage.LogEntry{deviceChanged(user, id)}, tx.RenameDevice(user, id, name)
	})
	if errors.Is(err, storage.ErrNotFound) {
		return errNoDevice()
	}
	if err != nil {
		return fmt.Errorf("rename a device of %s: %w", user, err)
	}
	return nil
}

// DeleteDevices ends devices with their sessions. Ids that the user does not
// have are fine.
func (a *Accounts) DeleteDevices(ctx context.Context, user spec.UserID, ids []string) error {
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	err := a.revoke(ctx, user, func(tx *storage.Tx) ([]storage.LogEntry, error) {
		return deleteDevices(tx, user, func(id string) bool { return wanted[id] })
	})
	if err != nil {
		return fmt.Errorf("delete devices of %s: %w", user, err)
	}
	return nil
}

// deleteDevices removes the chosen devices of a user, with everything that
// belongs to them, and returns a log entry for each.
func deleteDevices(tx *storage.Tx, user spec.UserID, choose func(id string) bool) ([]storage.LogEntry, error) {
	rows, err := tx.Devices(user)
	if err != nil {
		return nil, err
	}
	var gone []string
	var entries []storage.LogEntry
	for _, r := range rows {
		if choose(r.Device) {
			gone = append(gone, r.Device)
			entries = append(entries, deviceChanged(user, r.Device))
		}
	}
	return entries, tx.DeleteDevices(user, gone)
}

// deviceChanged announces that a device came, went or has another name.
func deviceChanged(user spec.UserID, device string) storage.LogEntry {
	return storage.LogEntry{Kind: storage.LogDeviceList, User: user, Device: device}
}

const (
	// seenEvery is how long what is known of devices being used stays in memory.
	seenEvery = time.Minute
	// seenAtMost bounds it: beyond that many devices a minute, some are noted
	// only in the next.
	seenAtMost = 50_000
	// seenRows is how many rows are written at once.
	seenRows = 200
)

type deviceKey struct {
	user   spec.UserID
	device string
}

// seenBuffer gathers when devices were last used, so that requests do not
// write. It is safe for concurrent use.
type seenBuffer struct {
	mu   sync.Mutex // mu guards last
	last map[deviceKey]storage.DeviceSeen
}

func newSeenBuffer() *seenBuffer { return &seenBuffer{last: make(map[deviceKey]storage.DeviceSeen)} }

func (b *seenBuffer) note(s storage.DeviceSeen) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := deviceKey{s.User, s.Device}
	if _, ok := b.last[k]; ok || len(b.last) < seenAtMost {
		b.last[k] = s
	}
}

func (b *seenBuffer) pending(user spec.UserID, device string) (storage.DeviceSeen, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.last[deviceKey{user, device}]
	return s, ok
}

func (b *seenBuffer) take() []storage.DeviceSeen {
	b.mu.Lock()
	defer b.mu.Unlock()
	rows := make([]storage.DeviceSeen, 0, len(b.last))
	for _, s := range b.last {
		rows = append(rows, s)
	}
	clear(b.last)
	return rows
}

// flushSeen writes what was seen once a minute and when the server stops.
func (a *Accounts) flushSeen(ctx context.Context) error {
	tick := time.NewTicker(seenEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.writeSeen(ctx)
		case <-ctx.Done():
			// The server's context is gone, the database not yet.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			a.writeSeen(last)
			return nil
		}
	}
}

// writeSeen writes what was seen in small transactions. What fails is lost,
// which nobody relies on.
func (a *Accounts) writeSeen(ctx context.Context) {
	for rows := a.seen.take(); len(rows) > 0; {
		n := min(seenRows, len(rows))
		err := a.db.Write(ctx, func(tx *storage.Tx) error { return tx.NoteDevicesSeen(rows[:n]) })
		if err != nil {
			a.log.Warn("last use of devices was not written", "devices", len(rows), "err", err)
			return
		}
		rows = rows[n:]
	}
}
