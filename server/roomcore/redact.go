package roomcore

import (
	"atoll/spec"
	"atoll/storage"
)

// redactions queues what the event redacts, or what redacts the event if that
// came first. The stored body is replaced by the redacted form: the text is gone
// from the database with the commit, and the event id stays what it was because
// it is computed over the redacted form. Spec: rooms/v11#handling-redactions.
func (c *Core) redactions(row *storage.EventRow, a accepted, d *delta) error {
	if row.Rejected != "" || row.SoftFailed {
		return nil
	}
	if row.Event.Type == "m.room.redaction" && row.Event.Redacts != "" {
		target, err := c.Event(row.Event.Redacts)
		if err != nil {
			return err
		}
		if target == nil {
			d.early = &storage.EarlyRedactionRow{RoomNID: c.cfg.RoomNID, Target: row.Event.Redacts, EventNID: row.NID}
			return nil
		}
		return c.redact(target, row, d)
	}
	if a.ours && a.live {
		return nil // new here, so nothing can have named it before
	}
	earlier, err := c.cfg.Store.RedactionsOf(row.Event.ID)
	if err != nil {
		return err
	}
	for _, q := range c.queue {
		if q.early != nil && q.early.Target == row.Event.ID {
			earlier = append(earlier, q.early.EventNID)
		}
	}
	for _, nid := range earlier {
		by, err := c.eventByNID(nid)
		if err != nil {
			return err
		}
		if err := c.redact(row, by, d); err != nil || len(d.redacted) > 0 {
			return err // the first that takes effect
		}
	}
	return nil
}

func (c *Core) redact(target, by *storage.EventRow, d *delta) error {
	if target.RedactedBy != 0 || target.Kind == storage.StateWaiting {
		return nil
	}
	allowed, err := c.mayRedact(target.Event, by)
	if err != nil || !allowed {
		return err
	}
	body, err := target.Event.Redact()
	if err != nil {
		return err
	}
	d.redacted = append(d.redacted, redaction{target: target, by: by.NID, body: body})
	shown := *target
	shown.Event, shown.RedactedBy = body, by.NID
	c.newEvents[target.NID], c.newIDs[body.ID] = &shown, target.NID
	if row := c.current[body.Key()]; row != nil && row.NID == target.NID {
		c.current[body.Key()] = &shown
	}
	return nil
}

// mayRedact reports whether the redaction takes effect: its sender has the
// redact level in the state before it, or is of the server of the target's
// sender. Spec: rooms/v3#handling-redactions.
func (c *Core) mayRedact(target *spec.Event, by *storage.EventRow) (bool, error) {
	if target.Type == "m.room.create" {
		return false, nil
	}
	read := c.stateReader(by.Before)
	create, err := read(spec.StateKey{Type: "m.room.create"})
	if err != nil {
		return false, err
	}
	levels, err := read(spec.StateKey{Type: "m.room.power_levels"})
	if err != nil {
		return false, err
	}
	power, err := spec.ParsePowerLevels(c.cfg.Rules, create, levels)
	if err != nil {
		return false, nil // levels that do not parse give nobody a right
	}
	return power.CanRedact(by.Event, target), nil
}
