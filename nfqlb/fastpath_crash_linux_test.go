// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFastPathProcess is not a test: it is the balancer that
// TestFastPathOfADeadBalancer kills. Its network namespace is file 3.
func TestFastPathProcess(t *testing.T) {
	dir := os.Getenv("WAYMARK_TEST_TABLES")
	if dir == "" {
		t.Skip("a helper of TestFastPathOfADeadBalancer")
	}
	b := NewBalancer(Config{}, func(name string) (*Table, error) { return LoadTable(dir, name) })
	if err := b.SetFlow(pathFlow("tshm-stream-a")); err != nil {
		t.Fatal(err)
	}
	e := NewEngine(b, QueueConfig{NetNS: 3})
	go e.Run(t.Context(), nil)
	f, err := NewFastPath(b, FastPathConfig{NetNS: 3, Devices: []string{"nsm-*"}})
	if err != nil {
		t.Fatal(err)
	}
	f.Run(t.Context(), func() { fmt.Println("ready") })
}

// A balancer that is killed takes the fast path with it: packets go to the queue
// again, where the next balancer finds them.
func TestFastPathOfADeadBalancer(t *testing.T) {
	w := newPathWorld(t, 1, 1)
	w.listen()
	b, dir, _ := w.shared(t)
	p := exec.Command(os.Args[0], "-test.run=^TestFastPathProcess$", "-test.v")
	p.Env = append(os.Environ(), "WAYMARK_TEST_TABLES="+dir)
	ns, err := unix.Dup(int(w.ns))
	w.must(err)
	file := os.NewFile(uintptr(ns), "netns")
	defer file.Close()
	p.ExtraFiles = []*os.File{file}
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	w.must(err)
	w.must(p.Start())
	ended := false
	t.Cleanup(func() {
		if !ended {
			p.Process.Kill()
			p.Wait()
		}
	})
	for lines := bufio.NewScanner(out); ; {
		if !lines.Scan() {
			t.Fatal("the balancer did not start")
		}
		if lines.Text() == "ready" {
			break
		}
	}
	w.send(udp(1, false))
	await(t, "a packet by the fast path", func() bool { return w.received() == 1 })
	w.must(p.Process.Kill())
	p.Wait()
	ended = true

	// The kernel takes links and maps away a moment after the process.
	await(t, "packets to be dropped at the queue", func() bool {
		before := w.received()
		w.send(udp(2, false))
		time.Sleep(5 * time.Millisecond) // for a packet that must not come there is no event
		return w.received() == before
	})
	before := w.received()
	e := serve(t, w.world, b, QueueConfig{})
	for k := range 20 {
		w.send(udp(k, k%2 == 0))
	}
	await(t, "packets through the queue", func() bool { return w.received() >= before+20 })
	if got := e.Stats().Packets; got != 20 {
		t.Errorf("%d of 20 packets went through the queue", got)
	}
	// The next one starts a fast path beside whatever the dead one left.
	f, detach := w.attached(b, FastPathConfig{})
	w.send(udp(9, false))
	await(t, "a packet by the next fast path", func() bool { return w.received() >= before+21 })
	if s := f.Stats(); s.Placed != 1 || e.Stats().Packets != 20 {
		t.Errorf("the next fast path: %+v", s)
	}
	detach()
}
