// SPDX-License-Identifier: Apache-2.0

//go:build linux

// One run: what to ask for, and what came of it.

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Run says what to run in which machine. Kernel and Argv are required.
type Run struct {
	Kernel *Kernel
	// Files maps absolute guest paths to host files or directories, which are
	// copied with their permissions. Dynamic programs bring their libraries.
	Files map[string]string
	// Argv is the payload: the absolute guest path of a program and arguments.
	Argv []string
	// Env is added to PATH, HOME, TMPDIR and WAYMARK_VM=<kernel name>.
	Env []string
	// Dir is the payload's working directory in the guest; "/tmp" if empty.
	Dir string
	// Modules are loaded before the payload starts, in this order. Most need
	// not be named: the kernel asks for them when they are used.
	Modules []string
	// Collect maps absolute guest paths, of files or directories, to host
	// paths they are copied to when the payload has ended. A path that does
	// not exist then is noted, and is no error.
	Collect map[string]string

	Memory int // MiB; 0 is 1536
	CPUs   int // 0 is 2

	// Accel is qemu's -accel; "" is emulation. Hardware virtualisation ("kvm")
	// is only used when asked for: inside another virtual machine it may be
	// offered and yet not work.
	Accel string

	// Timeout bounds the payload, not the boot, which has BootTimeout; 0 is 10
	// minutes for the one and 2 for the other.
	Timeout     time.Duration
	BootTimeout time.Duration
	// StopGrace is how long the guest may take to report once the time is up, of
	// which the payload gets a part to print its goroutines; 0 is 15 seconds.
	StopGrace time.Duration

	// Stdout and Stderr get the payload's output as it comes; nil discards it.
	Stdout, Stderr io.Writer
	// Note gets remarks of the machinery, one line each; nil discards them.
	Note func(string)
	// Console keeps the kernel's log in this host file; "" keeps its tail only,
	// in Result.
	Console string
}

// Outcome is how a run ended.
type Outcome int

// Only Exited has an exit code; all others mean that the payload did not end
// by itself or that nobody knows.
const (
	Exited     Outcome = iota + 1
	Panicked           // the kernel panicked
	TimedOut           // the payload did not end in time; the guest was alive
	Hung               // the guest did not boot, or did not answer any more
	Lost               // the machine went away without a word (reset, power off)
	QEMUFailed         // qemu could not run the machine
)

func (o Outcome) String() string {
	names := []string{"unknown", "exited", "panicked", "timed out", "hung", "lost", "qemu failed"}
	if o < 0 || int(o) >= len(names) {
		o = 0
	}
	return names[o]
}

// Result is what came of a run.
type Result struct {
	Outcome  Outcome
	ExitCode int           // of the payload; 128+signal if one ended it; -1 unless Exited
	Detail   string        // one line: why, unless it exited by itself
	Console  string        // the last part of the kernel's log
	Boot     time.Duration // from starting qemu to init
	Duration time.Duration // from starting qemu to the end
	Release  string        // the guest's uname -r
}

// Command returns the exit code for a command that runs r: the payload's own,
// 124 for a timeout as timeout(1) has it, 125 for anything worse.
func (r Result) Command() int {
	switch r.Outcome {
	case Exited:
		return r.ExitCode
	case TimedOut:
		return 124
	default:
		return 125
	}
}

func (r *Run) dir() string {
	if r.Dir == "" {
		return "/tmp"
	}
	return r.Dir
}

func (r *Run) environ() []string {
	return append([]string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "LANG=C.UTF-8",
		"WAYMARK_VM=" + r.Kernel.Name,
	}, r.Env...)
}

// InGuest tells the name of the kernel if this process runs in a machine of
// this package, else "".
func InGuest() string { return os.Getenv("WAYMARK_VM") }

func (r *Run) note(format string, args ...any) {
	if r.Note != nil {
		r.Note(fmt.Sprintf(format, args...))
	}
}

func (r *Run) check() error {
	switch {
	case r.Kernel == nil:
		return errors.New("vm: no kernel, see Fetch")
	case len(r.Argv) == 0:
		return errors.New("vm: nothing to run")
	case !strings.HasPrefix(r.Argv[0], "/"):
		return fmt.Errorf("vm: program %q is not an absolute path in the guest", r.Argv[0])
	}
	return nil
}

// Do boots the machine, runs the payload and waits for the end. The error says
// that the run could not be tried (qemu missing, file missing, canceled);
// everything a machine can do is in the Result. Machines queue for the host's
// processors, see machineSlot; the timeouts begin after that.
func (r *Run) Do(ctx context.Context) (Result, error) {
	if err := r.check(); err != nil {
		return Result{}, err
	}
	qemu, err := findQEMU()
	if err != nil {
		return Result{}, err
	}
	work, err := os.MkdirTemp("", "waymark-vm-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(work)
	release, err := machineSlot(ctx, func(s string) { r.note("%s", s) })
	if err != nil {
		return Result{}, err
	}
	defer release()
	initrd := work + "/initrd"
	if err := writeInitrd(initrd, r); err != nil {
		return Result{}, err
	}
	console := r.Console
	if console == "" {
		console = work + "/console.log"
	}
	if err := os.WriteFile(console, nil, 0o644); err != nil {
		return Result{}, fmt.Errorf("console log: %w", err)
	}
	m := &machine{run: r, qemu: qemu, initrd: initrd, console: console}
	return m.do(ctx)
}
