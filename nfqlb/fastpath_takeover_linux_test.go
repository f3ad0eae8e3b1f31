// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Processes with the fast path take over from each other while packets come:
// each packet passes, with the mark that it had before, be it by the one
// process's fast path, the other's or the queue.
func TestFastPathTakeOver(t *testing.T) {
	w := newWorld(t, 1)
	table := w.shared()
	args := []string{"--state", filepath.Join(t.TempDir(), "flows"), "--qlength", "8192", "--fastpath", "on", "--takeover"}
	old := w.serveProcess(nil, args...)
	w.inNS(func() {
		w.must(SetFlow(t.Context(), FlowSpec{Name: "vips", Target: table, Dests: []string{vip4.String() + "/32", vip6.String() + "/128"}}))
	})
	packets := steadyTraffic(200)
	w.send(packets...)
	await(t, "the packets", func() bool { return sumOf(w.counted()) == 200 })
	share := w.counted()

	s := w.sender(packets)
	stop := s.constantly(5 * steadyRate)
	for range 4 {
		before := sumOf(w.counted())
		await(t, "packets", func() bool { return sumOf(w.counted()) > before+100 })
		next := w.serveProcess(nil, args...)
		old.exit()
		old = next
	}
	stop()
	s.send(int((200 - s.sent.Load()%200) % 200)) // so that each packet was sent as often
	sent := 200 + s.sent.Load()
	await(t, "the last packets", func() bool { return sumOf(w.counted()) >= sent })
	for mark, n := range w.counted() {
		if want := share[mark] * int(sent/200); n != want {
			t.Errorf("mark %d: %d packets, want %d", mark, n, want)
		}
	}
	// The last one still decides in the kernel, although those before it took
	// their rules with them.
	queued := func() uint64 { return w.queueLine()[7] }
	await(t, "the fast path", func() bool {
		before, passed := queued(), sumOf(w.counted())
		s.send(200)
		await(t, "packets", func() bool { return sumOf(w.counted()) == passed+200 })
		return queued() < before+200
	})
	old.signal(unix.SIGTERM)
	old.exit()
}
