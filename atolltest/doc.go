// Package atolltest runs several whole homeservers in one process for tests:
// each has its own database, engine, federation handlers and client, and they
// reach each other over TLS connections of this machine through a name service
// that knows only them.
package atolltest
