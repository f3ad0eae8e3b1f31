// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// builtWaymark is the waymark under test, once it is built.
var builtWaymark string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "waymark-scenarios-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builtWaymark = filepath.Join(dir, "waymark")
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// waymark returns the waymark to test with: $WAYMARK_BIN (in a VM there is no Go),
// or one built now.
func waymark(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("WAYMARK_BIN"); path != "" {
		return path
	}
	if _, err := os.Stat(builtWaymark); err == nil {
		return builtWaymark
	}
	if out, err := exec.Command("go", "build", "-o", builtWaymark, "waymark/cmd/waymark").CombinedOutput(); err != nil {
		cannot(t, fmt.Sprintf("no waymark to test with: set WAYMARK_BIN, or mend the build: %s", out))
	}
	return builtWaymark
}

// cannot skips a test for want of something, except in CI, where it is there.
func cannot(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("WAYMARK_CI") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

func up(t *testing.T) *World {
	t.Helper()
	return upLab(t, meridio)
}

func upLab(t *testing.T, l *lab) *World {
	t.Helper()
	if l.lacks != nil && !inGuest() {
		if err := l.lacks(); errors.Is(err, ErrUnsupported) {
			t.Skipf("SKIPPED here, it runs on the kernels in the VM: %v", err)
		}
	}
	return upWith(t, Options{Lab: l.name})
}

// upWith brings a lab up for one test.
func upWith(t *testing.T, o Options) *World {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "a lab takes root")
	}
	o.Executable = waymark(t)
	w, err := Up(timeout(t), o)
	if errors.Is(err, ErrUnsupported) {
		cannot(t, err.Error())
	}
	if errors.Is(err, ErrUp) {
		cannot(t, "somebody uses the lab: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Down(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// inGuest says whether this is a stock kernel in a machine of package vm, which
// has every part a lab can need.
func inGuest() bool { return exists("/lib/modules/waymark.index") }

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// kinds are the four kinds of traffic a service answers.
var kinds = map[string]Traffic{
	"tcp4": {},
	"tcp6": {IPv6: true},
	"udp4": {UDP: true},
	"udp6": {UDP: true, IPv6: true},
}

func TestMeridioAnswersAsMaglevSays(t *testing.T) {
	start := time.Now()
	w := up(t)
	t.Logf("up after %v", time.Since(start))
	table, err := nfqlb.LoadTable(shmDir, meridioStream)
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for i, target := range meridioTargets {
		names[int(target.mark())] = fmt.Sprintf("target-%d", i+1)
	}
	for kind, traffic := range kinds {
		t.Run(kind, func(t *testing.T) {
			traffic.Connections = 24
			proto := uint8(unix.IPPROTO_TCP)
			if traffic.UDP {
				proto = unix.IPPROTO_UDP
			}
			sum, err := w.Send(timeout(t), traffic, func(x Exchange) {
				if x.Err != nil {
					t.Errorf("from %s: %v", x.Local, x.Err)
					return
				}
				if x.Reply.Peer != x.Local {
					t.Errorf("sent from %s, but the target saw %s", x.Local, x.Reply.Peer)
				}
				key := nfqlb.MakeKey(x.Local.Addr(), x.Remote.Addr(), proto, 0, x.Local.Port(), x.Remote.Port())
				_, _, mark := table.Lookup(key.Hash(nfqlb.HashTuple))
				if names[mark] != x.Reply.Target {
					t.Errorf("from %s: %s answered, the table says mark %d, %s", x.Local, x.Reply.Target, mark, names[mark])
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if sum.Sent != 24 || sum.Answered != 24 {
				t.Errorf("%+v", sum)
			}
			if len(sum.Targets) != len(meridioTargets) {
				t.Errorf("targets that answered: %v, want all three", sum.Targets)
			}
		})
	}
	t.Run("large", func(t *testing.T) {
		for kind, traffic := range kinds {
			traffic.Connections, traffic.Size = 6, 4000
			if sum, err := w.Send(timeout(t), traffic, nil); err != nil || sum.Failed > 0 {
				t.Errorf("%s with 4000 bytes: %+v, %v", kind, sum, err)
			}
		}
	})
}

// faultsOnce skips a test of faults in a virtual machine without KVM: cmd/waymark
// breaks and clears the same there, and sees where packets die.
func faultsOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("short: this runs on the host")
	}
}

func TestFaultsBreakAndClear(t *testing.T) {
	faultsOnce(t)
	w := up(t)
	for _, f := range w.lab.faults {
		t.Run(f.Name, func(t *testing.T) {
			for range 2 { // any number of times
				if err := w.Fault(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			sendEach(t, w, f, soon, func(kind string, sum Summary) {
				if f.Name == "rp-filter" && kinds[kind].IPv6 {
					return // there is no such filter for IPv6
				}
				if sum.Failed == 0 {
					t.Errorf("%s: every packet was answered in spite of the fault: %+v", kind, sum)
				}
			})
			for range 2 {
				if err := w.Clear(timeout(t), f.Name); err != nil {
					t.Fatal(err)
				}
			}
			sendEach(t, w, f, 0, func(kind string, sum Summary) {
				if sum.Failed > 0 && kinds[kind].UDP {
					// Nobody sends a datagram again that was lost while neighbours
					// found each other.
					sum = send(t, w, kinds[kind])
				}
				if sum.Failed > 0 {
					t.Errorf("%s: not repaired: %+v", kind, sum)
				}
			})
		})
	}
	t.Run("together", func(t *testing.T) {
		for _, f := range []string{"rp-filter", "no-flow", "no-listener"} {
			if err := w.Fault(timeout(t), f); err != nil {
				t.Fatal(err)
			}
		}
		// Starting the balancer sets its flow: clearing must unset it again.
		for _, f := range []string{"no-listener", "rp-filter"} {
			if err := w.Clear(timeout(t), f); err != nil {
				t.Fatal(err)
			}
		}
		if sum := send(t, w, Traffic{Timeout: soon}); sum.Answered > 0 {
			t.Errorf("fault no-flow is still set, but packets are answered: %+v", sum)
		}
		if err := w.Clear(timeout(t), ""); err != nil {
			t.Fatal(err)
		}
		if active := w.Active(); len(active) > 0 {
			t.Errorf("still set: %v", active)
		}
		if sum := send(t, w, Traffic{}); sum.Failed > 0 {
			t.Errorf("not repaired: %+v", sum)
		}
	})
}

// soon is long enough to wait for an answer that must not come.
const soon = 300 * time.Millisecond

// sendEach sends traffic of every kind that shows f, side by side; no timeout is the
// lab's.
func sendEach(t *testing.T, w *World, f Fault, timeout time.Duration, got func(kind string, sum Summary)) {
	t.Helper()
	var wg sync.WaitGroup
	for kind, traffic := range kinds {
		traffic.Timeout = timeout
		if slices.Contains(f.Traffic, "--size") {
			traffic.Size = 1400 // small packets pass
		}
		if slices.Contains(f.Traffic, "--reverse-fragments") {
			if !traffic.UDP {
				continue
			}
			traffic.Size, traffic.ReverseFragments = 4000, true
		}
		wg.Go(func() { got(kind, send(t, w, traffic)) })
	}
	wg.Wait()
}

func send(t *testing.T, w *World, traffic Traffic) Summary {
	t.Helper()
	// So many that each of three targets gets one, but once in 10^8 times.
	traffic.Connections, traffic.Concurrency = 48, 48
	sum, err := w.Send(timeout(t), traffic, nil)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestDownLeavesNothing(t *testing.T) {
	w := up(t)
	if err := w.Fault(timeout(t), "vip-missing"); err != nil {
		t.Fatal(err)
	}
	if err := w.Down(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, meridio)
	if err := Down("meridio"); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

// TestKilledWhileComingUp kills `lab up` at several moments; down must remove
// what is there, and up must work on top of it.
func TestKilledWhileComingUp(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	if os.Geteuid() != 0 {
		cannot(t, "a lab takes root")
	}
	exe := waymark(t)
	up(t).Down() // the lab is free, and this kernel can build it
	moments := map[string]func() bool{
		"state written":     func() bool { return exists(filepath.Join(meridio.dir(), "world.json")) },
		"second namespace":  func() bool { return exists(filepath.Join(NamespaceDir, meridio.namespace(meridioLB))) },
		"last namespace":    func() bool { return exists(filepath.Join(NamespaceDir, meridio.namespace("t3"))) },
		"first process":     func() bool { return exists(filepath.Join(meridio.dir(), "processes")) },
		"balancer starting": func() bool { return exists(filepath.Join(meridio.dir(), balancerRole+".log")) },
		"shared memory":     func() bool { return exists(filepath.Join(shmDir, meridioStream)) },
	}
	for name, reached := range moments {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(exe, "lab", "up", "meridio")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(30 * time.Second); !reached(); {
				if time.Now().After(deadline) {
					t.Fatal("the moment did not come")
				}
			}
			cmd.Process.Kill()
			cmd.Wait()
			if err := Down("meridio"); err != nil {
				t.Fatal(err)
			}
			nothingLeft(t, meridio)
		})
	}
	t.Run("up again without down", func(t *testing.T) {
		cmd := exec.Command(exe, "lab", "up", "meridio")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for reached := moments["shared memory"]; !reached(); {
		}
		cmd.Process.Kill()
		cmd.Wait()
		r, err := meridio.readRecord()
		if err != nil || r == nil || r.Complete {
			t.Skipf("it was killed too late to be half built: %+v, %v", r, err)
		}
		w := up(t)
		if sum := send(t, w, Traffic{}); sum.Failed > 0 {
			t.Errorf("%+v", sum)
		}
		w.Down()
		nothingLeft(t, meridio)
	})
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// nothingLeft checks namespaces, processes, shared memory and state.
func nothingLeft(t *testing.T, l *lab) {
	t.Helper()
	for _, n := range l.plan.nodes {
		if path := filepath.Join(NamespaceDir, l.namespace(n)); exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	for _, path := range append(l.files, l.dir()) {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range environs {
		env, err := os.ReadFile(path) // a zombie's is empty
		if err == nil && hasEnv(env, markEnv+"="+l.name) {
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			t.Errorf("process %s is left: %s", path, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
		}
	}
}

func TestUpRefusesForeignSharedMemory(t *testing.T) {
	up(t).Down()
	path := filepath.Join(shmDir, meridioStream)
	if err := os.WriteFile(path, []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	w, err := Up(timeout(t), Options{Lab: "meridio", Executable: waymark(t)})
	if err == nil {
		w.Down()
		t.Fatal("the lab came up over the shared memory of another balancer")
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("%v does not name %s", err, path)
	}
	if data, _ := os.ReadFile(path); string(data) != "somebody's" {
		t.Errorf("the file of another balancer was changed to %q", data)
	}
}
