// Package node puts one homeserver together from its parts (storage, engine,
// federation, both APIs) and runs it on its listeners. The commands serve and
// demo, and tests with real servers, are its users.
package node
