// Package server is the engine of the homeserver, free of HTTP: rooms, sync,
// accounts and the interfaces it asks of other homeservers.
package server
