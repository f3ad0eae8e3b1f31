// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// startSleep starts a process that does nothing until it is killed.
func startSleep(t *testing.T) (Process, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Skip("no sleep(1) to kill: ", err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return Process{Role: "sleeper", PID: cmd.Process.Pid, Start: start}, cmd
}

func TestKillEndsOneProcess(t *testing.T) {
	p, cmd := startSleep(t)
	if !p.running() {
		t.Fatal("a process just started does not run")
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	if p.running() {
		t.Error("it runs although it was killed")
	}
	cmd.Wait()
	if err := p.kill(); err != nil {
		t.Errorf("killing one that is gone: %v", err)
	}
}

// TestKillSparesAReusedPID: a recorded pid that belongs to a process with another
// start time belongs to a stranger.
func TestKillSparesAReusedPID(t *testing.T) {
	stranger, _ := startSleep(t)
	recorded := stranger
	recorded.Start--
	if err := recorded.kill(); err != nil {
		t.Fatal(err)
	}
	if recorded.running() {
		t.Error("the recorded process is said to run")
	}
	if !stranger.running() {
		t.Error("a stranger was killed")
	}
}

// TestThreadsStayHome looks at every thread of this process after namespaces
// were entered, left, and left by an error.
func TestThreadsStayHome(t *testing.T) {
	w := up(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	wanted := errors.New("wanted")
	for range 32 {
		for _, n := range w.Nodes() {
			err := w.Inside(n, func() error {
				if away, err := os.Readlink(threadNamespace); err != nil || away == home {
					return fmt.Errorf("inside %s the namespace is %s, %v", n, away, err)
				}
				return wanted
			})
			if err != wanted {
				t.Fatal(err)
			}
		}
	}
	if sum := send(t, w, Traffic{}); sum.Failed > 0 {
		t.Errorf("%+v", sum)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		if at, err := os.Readlink(task); err == nil && at != home {
			t.Errorf("thread %s is in %s, home is %s", task, at, home)
		}
	}
}
