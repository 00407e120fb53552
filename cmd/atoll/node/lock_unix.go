//go:build unix

package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// lockDataDir makes sure that only one process serves a data directory: two
// would each believe that they know what is in the rooms. The lock goes with
// the process, however that ends, so a file left behind means nothing.
func lockDataDir(dir string) (io.Closer, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("data directory %s is in use by another process", dir)
	}
	return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
}
