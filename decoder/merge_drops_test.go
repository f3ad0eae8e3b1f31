// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	. "waymark/decoder"
)

// flood is a stream of a node whose packets are dropped, one each ms from at on,
// with the clock every 50 ms.
func flood(t *testing.T, node string, at time.Duration, packets int) *stream {
	t.Helper()
	w := newTrench()
	w.session.Node = node
	s := newStream(t, w)
	s.add(clock(at))
	for i := range packets {
		now := at + time.Duration(i)*time.Millisecond
		s.tcp(uint64(i+1), uint64(now), client4, uint16(1024+i%60000), vip4, 5000, syn).drop(nsLB, nsm1, 0, rNotSpecified, atNFQueue)
		if i%50 == 49 {
			s.add(clock(now))
		}
	}
	s.add(&Context{Time: base + uint64(at) + uint64(packets)*1_000_000, End: &End{}})
	return s
}

// counting prints what it is told of drops.
type counting struct {
	bytes.Buffer
	kinds *DropKinds
	w     *TextWriter
}

func newCounting(t *testing.T) *counting {
	c := &counting{}
	c.w = NewTextWriter(c, TextOptions{})
	c.kinds = NewDropKinds(DropKindsOptions{
		First:   func(d *Drop) { must(t, c.w.Drop(d)) },
		Repeats: func(n *DropCount) { must(t, c.w.Drops(n)) },
	})
	return c
}

// merged are the drops of recordings of these streams, counted, and their ids.
func merged(t *testing.T, streams ...*stream) (out *counting, ids []string) {
	t.Helper()
	var rs []*Recording
	for _, s := range streams {
		var file bytes.Buffer
		r := NewRecorder(&file, RecorderOptions{})
		s.feed(r)
		must(t, r.Close())
		rs = append(rs, &Recording{In: &file, Options: Options{LB: trenchLB{}}, Drops: true})
	}
	out = newCounting(t)
	var last WallTime
	for told := range Merge(rs) {
		switch {
		case told.Drop != nil:
			if told.Drop.Time < last {
				t.Errorf("%s comes late", told.Drop.Journey)
			}
			last = told.Drop.Time
			ids = append(ids, told.Drop.Journey)
			out.kinds.Add(told.Drop)
		case told.Clock != 0:
			out.kinds.Clock(told.Clock)
		}
	}
	var end WallTime
	for _, r := range rs {
		must(t, r.Err)
		end = max(end, r.Status.Time)
	}
	out.kinds.Finish(end)
	must(t, out.w.Totals(out.kinds.Totals(100)))
	return out, ids
}

// TestOneRecordingCountsAsLive: byte by byte, with the clock's seconds.
func TestOneRecordingCountsAsLive(t *testing.T) {
	s := flood(t, "a", 0, 2500)
	live := newCounting(t)
	st := NewStitcher(Options{LB: trenchLB{}, EmitDrop: live.kinds.Add, EmitNormal: live.kinds.Add, EmitClock: live.kinds.Clock})
	s.feed(st)
	st.Flush()
	live.kinds.Finish(st.Status().Time)
	must(t, live.w.Totals(live.kinds.Totals(100)))
	if got, _ := merged(t, s); got.String() != live.String() || bytes.Count(live.Bytes(), []byte(" more in ")) != 3 {
		t.Errorf("replayed:\n%s\nlive:\n%s", got, live)
	}
}

// TestMergedDropsAreCountedTogether, in the order of time, whatever the clock of
// one recording says while drops of another are still to be told; and each
// node's are of a kind of their own.
func TestMergedDropsAreCountedTogether(t *testing.T) {
	const n = 1200
	out, ids := merged(t, flood(t, "a", 0, n), flood(t, "b", 300*time.Microsecond, n), flood(t, "c", 10*time.Second, 3))
	for i := range n {
		if ids[2*i] != fmt.Sprint("a-", i+1) || ids[2*i+1] != fmt.Sprint("b-", i+1) {
			t.Fatalf("drops %d and %d are %s and %s", 2*i, 2*i+1, ids[2*i], ids[2*i+1])
		}
	}
	table := out.kinds.Totals(100)
	if table.Drops != 2*n+3 || len(table.Kinds) != 3 {
		t.Errorf("%d drops of %d kinds:\n%s", table.Drops, len(table.Kinds), out)
	}
	for i, want := range []struct {
		node  string
		count uint64
	}{{"a", n}, {"b", n}, {"c", 3}} {
		if k := table.Kinds[i]; k.Node != want.node || k.Count != want.count {
			t.Errorf("%d on %s, want %+v", k.Count, k.Node, want)
		}
	}
	// Two seconds of the first two, and the end.
	if got := bytes.Count(out.Bytes(), []byte(" more in ")); got != 5 {
		t.Errorf("%d lines of counts:\n%s", got, out)
	}
}
