// Package roomcore is the heart of one room as a step machine: checks, state,
// extremities, resolution and the PDUs that wait for something. It has no
// goroutines, no network and no clock. Its owner hands it inputs (an event to
// build, an event that came, a fetch that was answered, a commit that succeeded
// or failed, the time) and carries out its outputs (units to commit, things to
// fetch, a time to wake it). The simulation drives the same code from a seeded
// scheduler.
//
// A Core is not safe for concurrent use; its owner serialises the calls.
package roomcore
