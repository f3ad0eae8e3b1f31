// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The shared file with the trace mask and the log level. All balancers and
// clients of a machine share it, so clients take turns: each locks the file
// until the balancer has answered. nfqlb's clients do not.

// defaultTraceConfig is what nfqlb starts with.
var defaultTraceConfig = TraceConfig{LogLevel: LogNotice}

// ReadTraceConfig reads the settings in dir; without a file they are the
// default.
func ReadTraceConfig(dir string) (TraceConfig, error) {
	f, err := os.Open(filepath.Join(dir, TraceName))
	if errors.Is(err, fs.ErrNotExist) {
		return defaultTraceConfig, nil
	}
	if err != nil {
		return TraceConfig{}, fmt.Errorf("trace settings: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() == 0 { // just made, see changeTraceConfig
		return defaultTraceConfig, nil
	}
	return readTraceConfig(f)
}

// SetLogLevel sets the log level of all balancers that share dir.
func SetLogLevel(dir string, level int) error {
	f, err := openTraceConfig(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lockWithin(context.Background(), f, 2*tracePatience); err != nil {
		return err
	}
	return changeTraceConfig(f, func(c *TraceConfig) { c.LogLevel = level })
}

// openTraceConfig opens the file, and makes it if it is not there. Closing it
// gives up a lock on it.
func openTraceConfig(dir string) (*os.File, error) {
	path := filepath.Join(dir, TraceName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("trace settings: %w", err)
	}
	return f, nil
}

func readTraceConfig(f *os.File) (TraceConfig, error) {
	var b [traceConfigSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return TraceConfig{}, fmt.Errorf("trace settings: %w", err)
	}
	return parseTraceConfig(b[:n])
}

// changeTraceConfig changes what f says, or the defaults where it is new and says
// nothing. Whoever calls it has f locked: else one of two loses its change.
func changeTraceConfig(f *os.File, edit func(*TraceConfig)) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("trace settings: %w", err)
	}
	c := defaultTraceConfig
	if info.Size() >= traceConfigSize {
		if c, err = readTraceConfig(f); err != nil {
			return err
		}
	}
	edit(&c)
	if _, err := f.WriteAt(c.encode(), 0); err != nil {
		return fmt.Errorf("trace settings: %w", err)
	}
	return nil
}

// clearTraceMask leaves what the remaining clients want in the file, unless a
// new client is just writing there: then that one's end will clear it.
func clearTraceMask(dir string, remaining TraceMask) error {
	f, err := openTraceConfig(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil
	}
	return changeTraceConfig(f, func(c *TraceConfig) { c.Mask = remaining })
}
