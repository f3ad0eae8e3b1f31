// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/nftables"
)

// targetChanges is how many there are in 10 s; an emulated machine does fewer.
func targetChanges(t *testing.T) int {
	s := os.Getenv("WAYMARK_TARGET_CHANGES")
	if s == "" {
		return 1000
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Under constant traffic targets come and go, as Meridio makes them: change
// the table, wait until the balancer has it, take down what is behind the
// target. No packet is lost, none goes to a target that was taken out, and
// after each change every connection is where the new table has it.
func TestTargetChangesUnderConstantTraffic(t *testing.T) {
	ownControlSocket(t)
	w := newWorld(t, 1)
	const name = "tshm-stream-a"
	targets := []int{47, 57, 66, 89}
	mark := func(target int) int { return 5001 + target }
	dir := sharedTable(t, name, targets...)
	load := func(name string) (*Table, error) { return LoadTable(dir, name) }
	b := NewBalancer(Config{}, load)
	if err := b.SetFlow(allFlow()); err != nil {
		t.Fatal(err)
	}
	e := serve(t, w, b, QueueConfig{Length: 8192})
	l, err := ListenControl()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	control, watch := make(chan error, 1), make(chan error, 1)
	go func() { control <- b.ServeControl(ctx, l) }()
	go func() { watch <- b.WatchShared(ctx, dir, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-control; err != nil {
			t.Error(err)
		}
		if err := <-watch; err != nil {
			t.Error(err)
		}
	})

	// The constant traffic is IPv6, the connections that are followed IPv4:
	// they are counted apart.
	var constant, connections [][]byte
	for _, p := range steadyTraffic(6000) {
		if p[0]>>4 == 6 {
			constant = append(constant, p)
		} else {
			connections = append(connections, p)
		}
	}
	s := w.sender(constant)
	changes := targetChanges(t)
	stop := s.constantly(steadyRate * changes / 100)

	const probed = 50
	oracle := NewBalancer(Config{}, load)
	places := func() []int {
		if err := oracle.SetFlow(allFlow()); err != nil { // loads the table anew
			t.Fatal(err)
		}
		out := make([]int, len(connections))
		for i, c := range connections {
			var p Packet
			out[i] = oracle.Decide(c, &p).Index
		}
		return out
	}
	was, want := places(), make(map[int]int)
	var stayed, moved, most int
	r := rand.New(rand.NewPCG(31, 32))
	start := time.Now()
	for i := range changes {
		victim := targets[i/2%len(targets)]
		if i%2 == 0 {
			err = DeactivateAt(dir, name, victim)
		} else {
			err = ActivateAt(dir, name, victim, mark(victim))
		}
		if err == nil {
			err = ReloadTargets(ctx, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		dead := w.countedOf(nftables.TableFamilyIPv6)[mark(victim)]

		now := places()
		movedNow, survivors := 0, 0
		for c := range now {
			if was[c] == victim || now[c] == victim {
				continue
			}
			survivors++
			if was[c] != now[c] {
				movedNow++
			}
		}
		stayed, moved, most = stayed+survivors, moved+movedNow, max(most, movedNow*10000/survivors)
		was = now

		at := r.IntN(len(connections) - probed)
		for c := at; c < at+probed; c++ {
			want[mark(now[c])]++
		}
		w.send(connections[at : at+probed]...)
		await(t, "the connections", func() bool {
			got := w.countedOf(nftables.TableFamilyIPv4)
			return sumOf(got) == sumOf(want)
		})
		if got := w.countedOf(nftables.TableFamilyIPv4); !maps.Equal(got, want) {
			t.Fatalf("change %d: connections by mark %v, want %v", i, got, want)
		}
		if wait := time.Until(start.Add(time.Duration(i+1) * 10 * time.Second / time.Duration(changes))); wait > 0 {
			time.Sleep(wait) // the pace of the changes, which nothing signals
		}
		if i%2 == 0 {
			if n := w.countedOf(nftables.TableFamilyIPv6)[mark(victim)]; n != dead {
				t.Fatalf("change %d: %d packets went to target %d after it was taken out", i, n-dead, victim)
			}
		}
	}
	took := time.Since(start)
	stop()
	sent := s.sent.Load()
	await(t, "the last packets", func() bool { return sumOf(w.countedOf(nftables.TableFamilyIPv6)) >= sent })
	if got := w.countedOf(nftables.TableFamilyIPv6); sumOf(got) != sent || got[0] != 0 {
		t.Errorf("of %d packets %v passed", sent, got)
	}
	if st := b.Stats(); len(st.Reasons) != 1 {
		t.Errorf("packets were dropped: %v", st.Reasons)
	}
	// The lookup table is some 2,000 times as large as there are targets: few
	// slots change besides those of the target that comes or goes, and no
	// connection moves whose slot does not.
	if most > 100 {
		t.Errorf("a change moved %.2f %% of the connections to other targets", float64(most)/100)
	}
	t.Logf("%d changes in %.1f s, %d packets besides, none lost or sent to a target that was out; of the connections to targets that stayed a change moved %.2f %%, at most %.2f %%; engine %+v",
		changes, took.Seconds(), sent, 100*float64(moved)/float64(stayed), float64(most)/100, e.Stats())
}
