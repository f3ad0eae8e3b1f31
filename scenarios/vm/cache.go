// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Where kernels are kept, and the locks that let several runs share the place.

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir is where kernels are kept: $WAYMARK_CACHE, or waymark in
// $XDG_CACHE_HOME, or ~/.cache/waymark.
func CacheDir() (string, error) {
	if d := os.Getenv("WAYMARK_CACHE"); d != "" {
		return filepath.Abs(d)
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no place to keep kernels, set WAYMARK_CACHE: %w", err)
	}
	return filepath.Join(d, "waymark"), nil
}

// lockFile takes an exclusive lock on the file at path. With wait it blocks
// (a kernel download by someone else takes seconds); without, a lock held by
// another is unix.EWOULDBLOCK. The lock ends with the returned function, and
// with the process.
func lockFile(path string, wait bool) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// machineSlot waits until fewer machines run here than the host has processors,
// for each is one thread of qemu: more only make each other's timeouts fire.
func machineSlot(ctx context.Context, note func(string)) (release func(), err error) {
	dir, err := CacheDir()
	if err != nil {
		return nil, err
	}
	slots := runtime.NumCPU()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; {
		for i := range slots {
			unlock, err := lockFile(filepath.Join(dir, fmt.Sprintf("machine-%d.lock", i)), false)
			if err == nil {
				return unlock, nil
			}
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, err
			}
		}
		if !told {
			note(fmt.Sprintf("waiting: %d machine(s) run here already", slots))
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another machine to end: %w", context.Cause(ctx))
		case <-tick.C:
		}
	}
}
