//go:build !unix

package node

import "io"

// lockDataDir locks nothing where the system has no such locks.
func lockDataDir(string) (io.Closer, error) { return nil, nil }
