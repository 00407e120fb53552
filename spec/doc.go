// Package spec is the Matrix protocol as pure functions: identifiers, canonical
// JSON, signing, events, authorization rules, state resolution, the state trie
// and error codes. Values go in, values and errors come out; nothing here does
// I/O, reads a clock or draws random numbers, and no function keeps a reference
// to mutable state, so everything may be called concurrently unless a comment
// says otherwise.
//
// Comments cite the Matrix specification v1.19 as "Spec:" with page#anchor.
package spec
