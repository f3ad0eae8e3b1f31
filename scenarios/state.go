// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// What a world leaves on disk so that a later waymark can break, repair and
// remove it: /run/waymark/lab/NAME with
//
//	world.json   how it was built, and whether building ended
//	processes    one JSON object per started process, appended at once
//	files        one shared memory file per line, written before it is made
//	faults.json  the faults that are set
//	ROLE.log     output of a process
//
// Two locks, both flock(2), so that they end with their holder: the directory
// /run/waymark/lab is locked for as long as something is changed, and
// NAME.use for as long as a Go program uses a world.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const stateDir = "/run/waymark/lab"

// lockRetry is the pause between two attempts to take a lock: flock cannot wait
// with a deadline.
const lockRetry = 10 * time.Millisecond

// record is world.json.
type record struct {
	Executable string `json:"executable"`
	Balancer   string `json:"balancer,omitempty"`
	External   string `json:"external,omitempty"`
	Complete   bool   `json:"complete"`
	// Modules are the kernel modules that were loaded for this world.
	Modules           []string `json:"modules,omitempty"`
	NoBridgeNetfilter bool     `json:"no_bridge_netfilter,omitempty"`
	// ConnectionLimit is the machine's, while a fault has changed it.
	ConnectionLimit int      `json:"connection_limit,omitempty"`
	Notes           []string `json:"notes,omitempty"`
}

func (l *lab) dir() string   { return filepath.Join(stateDir, l.name) }
func (w *World) dir() string { return w.lab.dir() }

func (w *World) save() error { return writeJSON(filepath.Join(w.dir(), "world.json"), w.record) }

// readRecord returns nil when the lab has no state on disk, and an incomplete
// record when its file is missing or was cut off.
func (l *lab) readRecord() (*record, error) {
	if _, err := os.Stat(l.dir()); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var r record
	err := readJSON(filepath.Join(l.dir(), "world.json"), &r)
	if err != nil && errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return &record{}, nil
	}
	return &r, nil
}

// recordProcess writes p down before anything else can go wrong.
func (w *World) recordProcess(p Process) error {
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return appendLine(filepath.Join(w.dir(), "processes"), string(line))
}

// processes returns every process ever recorded for the lab, oldest first. A
// line cut off by a crash ends the list.
func (l *lab) processes() ([]Process, error) {
	f, err := os.Open(filepath.Join(l.dir(), "processes"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readProcesses(f), nil
}

func readProcesses(r io.Reader) []Process {
	var all []Process
	for dec := json.NewDecoder(r); ; {
		var p Process
		if dec.Decode(&p) != nil {
			return all
		}
		if p.PID > 0 { // 0 and below address groups of processes
			all = append(all, p)
		}
	}
}

// claimFiles notes the shared memory files the world's processes will make. A
// file that is already there belongs to somebody else: a balancer of this
// machine would be overwritten, so that is an error.
func (w *World) claimFiles() error {
	for _, path := range w.lab.files {
		if _, err := os.Lstat(path); err == nil {
			return fmt.Errorf("%s exists and is not the lab's; stop the balancer that uses it, or delete it, and try again", path)
		}
		if err := appendLine(filepath.Join(w.dir(), "files"), path); err != nil {
			return err
		}
	}
	return nil
}

// removeFiles removes the files that were claimed, and no other.
func (l *lab) removeFiles() error {
	data, err := os.ReadFile(filepath.Join(l.dir(), "files"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	claimed := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		claimed[strings.TrimSuffix(line, "\n")] = true
	}
	for _, path := range l.files {
		if !claimed[path] {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// activeFaults returns the names of the faults that are set, in the order they
// were set.
func (l *lab) activeFaults() []string {
	var names []string
	if readJSON(filepath.Join(l.dir(), "faults.json"), &names) != nil {
		return nil
	}
	return names
}

func (w *World) saveFaults(names []string) error {
	return writeJSON(filepath.Join(w.dir(), "faults.json"), names)
}

// lockState takes the lock under which worlds are changed.
func lockState(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, err
	}
	f, err := awaitLock(ctx, stateDir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("another waymark is changing a lab: %w", err)
	}
	return f, nil
}

// lockUse takes the lock that a program holds while it uses the lab.
func (l *lab) lockUse(ctx context.Context) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, err
	}
	f, err := awaitLock(ctx, l.dir()+".use", os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("another program uses lab %s (see `fuser %s.use`): %w", l.name, l.dir(), err)
	}
	return f, nil
}

// awaitLock opens and locks path, trying until ctx is done.
func awaitLock(ctx context.Context, path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockRetry)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// lockFile opens path and waits for its lock without a deadline: for locks that
// are held for an instant.
func lockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, err
		}
	}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}

// writeJSON replaces path in one step: a reader sees the old or the new text.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}
