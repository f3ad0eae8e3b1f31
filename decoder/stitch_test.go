// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"waymark/bpf"
	. "waymark/decoder"
)

func newStream(t testing.TB, w *trench) *stream {
	s := &stream{t: t}
	s.contexts(w.contexts()...)
	return s
}

func clock(at time.Duration) *Context {
	return &Context{Time: base + uint64(at), Clock: &Clock{}}
}

// A few packets at once, as the tests below need them.
func someTraffic(s *stream, n int) {
	for i := range n {
		at := uint64(i) * 50_000
		s.tcp(uint64(2*i+1), at, client4, uint16(40000+i), vip4, 5000, syn).request()
		s.tcp(uint64(2*i+2), at+120_000, vip4, 5000, client4, uint16(40000+i), synAck).reply()
	}
}

func printed(t *testing.T, js []*Journey) string {
	t.Helper()
	var b bytes.Buffer
	w, jw := NewTextWriter(&b, TextOptions{}), NewJSONWriter(&b)
	for _, j := range js {
		if err := w.Journey(j); err != nil {
			t.Fatal(err)
		}
		if err := jw.Journey(j); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestOutOfOrder: records of different CPUs come a few µs out of order; the
// journeys must be the same.
func TestOutOfOrder(t *testing.T) {
	ordered := newStream(t, newTrench())
	someTraffic(ordered, 20)
	byTime := slices.Clone(ordered.items)
	contexts := len(newTrench().contexts())
	recordTime := func(it any) uint64 {
		var r bpf.Record
		if _, err := r.Decode(it.([]byte)); err != nil {
			t.Fatal(err)
		}
		return r.TimeNs
	}
	slices.SortStableFunc(byTime[contexts:], func(a, b any) int { return int(int64(recordTime(a)) - int64(recordTime(b))) })
	ordered.items = append(byTime, clock(time.Second))
	want := printed(t, ordered.run(Options{}))
	if n := strings.Count(want, "delivered ("); n != 40 {
		t.Fatalf("%d of 40 journeys delivered", n)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 20 {
		s := &stream{t: t, items: slices.Clone(ordered.items)}
		for i := contexts; i+3 < len(s.items)-1; i += 3 {
			rng.Shuffle(3, func(a, b int) { s.items[i+a], s.items[i+b] = s.items[i+b], s.items[i+a] })
		}
		for _, j := range s.run(Options{}) {
			j.Complete, j.Notes = true, nil // a first record that comes second is noted
			if strings.Count(want, fmt.Sprintf("%q", j.ID)) != 1 {
				t.Fatalf("round %d: journey %s is not in the ordered output, or twice", round, j.ID)
			}
		}
		got := s.run(Options{})
		for i := range got {
			got[i].Complete, got[i].Notes = true, nil
		}
		if g := printed(t, got); g != want {
			t.Fatalf("round %d: shuffled records give other journeys\n%s\nwant\n%s", round, g, want)
		}
	}
}

// TestPointerReuse: the kernel gives the sk_buff of a packet whose end was not
// seen to the next packet. The old trail is over then.
func TestPointerReuse(t *testing.T) {
	s := newStream(t, newTrench())
	a := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	b := s.tcp(2, 100_000, vip4, 5000, client4, 40000, synAck)
	b.rec.Skb = a.rec.Skb
	b.reply()
	s.add(clock(200 * time.Millisecond)) // less than Linger
	var js []*Journey
	st := NewStitcher(Options{Emit: func(j *Journey) { js = append(js, j) }, LB: trenchLB{}})
	s.feed(st)
	if len(js) != 1 || js[0].ID != "n1-1" || js[0].Outcome != Delivered {
		t.Fatalf("got %d journeys, want the first one finished by the reuse of its skb", len(js))
	}
	st.Flush()
	if len(js) != 2 || js[1].Outcome != Delivered {
		t.Fatalf("got %d journeys, want both", len(js))
	}
}

// TestLinger: without an end in sight a journey is over after Linger, not before.
func TestLinger(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	var js []*Journey
	st := NewStitcher(Options{Emit: func(j *Journey) { js = append(js, j) }})
	s.feed(st)
	must(t, st.Context(clock(499*time.Millisecond)))
	if len(js) != 0 {
		t.Fatal("the journey was closed before Linger")
	}
	must(t, st.Context(clock(501*time.Millisecond)))
	if len(js) != 1 {
		t.Fatal("the journey was not closed after Linger")
	}
}

// TestDropSettles: a dropped packet is reported after Settle.
func TestDropSettles(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 6000, syn).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
	s.add(clock(DefaultSettle + time.Millisecond))
	var drops []*Drop
	st := NewStitcher(Options{EmitDrop: func(d *Drop) { drops = append(drops, d) }, LB: trenchLB{}})
	s.feed(st)
	if len(drops) != 1 {
		t.Fatalf("%d drops after Settle, want 1", len(drops))
	}
	var b bytes.Buffer
	must(t, NewTextWriter(&b, TextOptions{}).Drop(drops[0]))
	must(t, NewJSONWriter(&b).Drop(drops[0]))
	goldenBytes(t, "drop-line.txt", b.Bytes())
}

// TestSilence: a packet that waits longer than Linger (in a queue whose
// balancer is stopped) goes on as a second journey that names the first.
func TestSilence(t *testing.T) {
	s := newStream(t, newTrench())
	p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB()
	s.add(clock(900 * time.Millisecond))
	p.after(time.Second).balanced().toTarget()
	js := s.run(Options{})
	if len(js) != 2 {
		t.Fatalf("%d journeys, want 2", len(js))
	}
	if js[0].Outcome != Open || !slices.Contains(js[1].Notes, "continues n1-1 after a silence") || js[1].Complete || js[1].Outcome != Delivered {
		t.Errorf("got %s, then %s with notes %v", js[0].Outcome, js[1].Outcome, js[1].Notes)
	}
}

// TestQueuedIsNotSilent: a packet that is known to wait in a queue is one journey
// for longer.
func TestQueuedIsNotSilent(t *testing.T) {
	for wait, want := range map[time.Duration]int{1900 * time.Millisecond: 1, 2100 * time.Millisecond: 2} {
		s := newStream(t, newTrench())
		p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().enqueue(7, 3)
		s.add(clock(wait))
		p.after(wait).verdict(7, 1).balanced().toTarget()
		if js := s.run(Options{}); len(js) != want {
			t.Errorf("after %s in the queue there are %d journeys, want %d", wait, len(js), want)
		}
	}
}

// TestLoss: journeys that a loss may have torn are not complete, and say what
// was lost.
func TestLoss(t *testing.T) {
	for kind, want := range map[string]struct {
		lost uint64 // records
		note string
	}{
		"ring":      {7, "7 egress records were lost"},
		"untracked": {0, "7 packets could not be followed"},
		"missed":    {7, "passed by the egress hook 7 times"},
	} {
		s := newStream(t, newTrench())
		for i := range uint64(3) {
			s.tcp(i+1, i*2_000_000_000, client4, 40000, vip4, 5000, syn).request()
			if i == 1 { // as the tracer tells it: soon after it happened
				s.add(&Context{Time: base + 2_110_000_000, Loss: &Loss{
					From: base + 1_900_000_000, To: base + 2_100_000_000, Hook: uint16(bpf.HookTCEgress), Count: 7, Kind: kind,
				}})
			}
		}
		var js []*Journey
		st := NewStitcher(Options{Emit: func(j *Journey) { js = append(js, j) }})
		s.feed(st)
		st.Flush()
		var got []bool
		for _, j := range js {
			got = append(got, j.Complete)
		}
		if !reflect.DeepEqual(got, []bool{true, false, true}) {
			t.Fatalf("%s: complete: %v, want only the second torn", kind, got)
		}
		if st.Stats().Lost != want.lost || !strings.Contains(js[1].Notes[0], want.note) {
			t.Errorf("%s: lost %d, notes %v", kind, st.Stats().Lost, js[1].Notes)
		}
	}
}

// TestLossOfEnds: where a hook that sees ends alone was passed by, only packets
// whose end is not told may have been its.
func TestLossOfEnds(t *testing.T) {
	for name, hook := range map[string]bpf.Hook{"kfree_skbmem": bpf.HookKfreeSkbmem, "consume_skb": bpf.HookConsumeSkb} {
		t.Run(name, func(t *testing.T) { testLossOfEnds(t, name, hook) })
	}
}

func testLossOfEnds(t *testing.T, name string, hook bpf.Hook) {
	s := newStream(t, newTrench())
	for i, end := range []bool{true, false} {
		p := s.tcp(uint64(i)+1, uint64(i)*1_000_000, client4, 40000, vip4, 5000, syn).request()
		if end {
			p.rec.Flags |= bpf.FlagEnd
			p.after(us).write(bpf.HookKfreeSkbmem, 0, 0)
		}
	}
	s.add(&Context{Time: base + 100_000_000, Loss: &Loss{From: base, To: base + 100_000_000, Hook: uint16(hook), Count: 2, Kind: "missed"}})
	js := s.run(Options{})
	if len(js) != 2 || !js[0].Complete || js[1].Complete || !strings.Contains(js[1].Notes[0], "passed by the "+name+" hook 2 times") {
		t.Errorf("complete: %v %v, notes %v", js[0].Complete, js[1].Complete, js[1].Notes)
	}
}

// TestLossBefore: a packet's first records may have been lost before it was seen,
// but not those of hooks that leave none of a packet that is not followed yet.
func TestLossBefore(t *testing.T) {
	for hook, whole := range map[bpf.Hook]bool{
		bpf.HookTCIngress: false, bpf.HookLocalOut: false, bpf.HookSkbClone: false, bpf.HookKfreeSkb: false,
		bpf.HookNAT: true, bpf.HookConntrack: true, bpf.HookBridgeForward: true, bpf.HookQueueEnter: true, bpf.HookNFTChain: true, bpf.HookSocketReceive: true,
	} {
		s := newStream(t, newTrench())
		s.add(&Context{Time: base, Loss: &Loss{From: base, To: base + 50_000_000, Hook: uint16(hook), Count: 1, Kind: "missed"}})
		s.tcp(1, 100_000_000, client4, 40000, vip4, 5000, syn).request()
		if js := s.run(Options{}); len(js) != 1 || js[0].Complete != whole {
			t.Errorf("hook %d: complete: %v, want %v", hook, js[0].Complete, whole)
		}
	}
}

// TestLossToldLate: a reader that stood still goes on with records from after
// the loss before it can tell of it. A stream that says how far losses are told
// keeps journeys back until then.
func TestLossToldLate(t *testing.T) {
	s := newStream(t, newTrench())
	told := func(at, told uint64) *Context {
		return &Context{Time: base + at, Clock: &Clock{Told: base + told}}
	}
	s.add(told(0, 1))
	s.tcp(1, 1_000_000, client4, 40000, vip4, 5000, syn).requestToLB()
	s.tcp(2, 3_000_000_000, client4, 40001, vip4, 5000, syn).request()
	s.add(&Context{Time: base + 3_000_500_000, Loss: &Loss{From: base, To: base + 2_999_000_000, Hook: uint16(bpf.HookTCEgress), Count: 9}})
	s.add(told(3_000_500_000, 3_000_400_000))
	s.tcp(3, 6_000_000_000, client4, 40002, vip4, 5000, syn).request()
	js := s.run(Options{})
	if len(js) != 3 || js[0].Complete || !js[2].Complete {
		t.Errorf("complete: %v %v %v", js[0].Complete, js[1].Complete, js[2].Complete)
	}
}

// TestManyLosses: a stream that lags is told of many losses before it gets to
// the journeys they concern.
func TestManyLosses(t *testing.T) {
	const n, every = 10_000, 10_000_000 // more than are kept; ns
	s := newStream(t, newTrench())
	for i := range uint64(n) {
		s.add(&Context{Time: base, Loss: &Loss{From: base + i*every, To: base + (i+1)*every, Hook: uint16(bpf.HookTCEgress), Count: 1}})
	}
	for i := range uint64(20) {
		s.tcp(i+1, i*n*every/20, client4, 40000, vip4, 5000, syn).request()
	}
	s.tcp(100, (n+100)*every, client4, 40000, vip4, 5000, syn).request()
	js := s.run(Options{})
	if len(js) != 21 {
		t.Fatalf("%d journeys", len(js))
	}
	for i, j := range js {
		if j.Complete != (i == 20) {
			t.Errorf("journey %d: complete is %v", i, j.Complete)
		}
		if len(j.Notes) > 1 {
			t.Errorf("journey %d says the same %d times: %q", i, len(j.Notes), j.Notes[:2])
		}
	}
}

// TestLimit: the session's limit ends the output, and Done says so.
func TestLimit(t *testing.T) {
	w := newTrench()
	w.session.Limit = 3
	s := newStream(t, w)
	someTraffic(s, 10)
	n := 0
	st := NewStitcher(Options{Emit: func(*Journey) { n++ }})
	s.feed(st)
	st.Flush()
	if n != 3 || !st.Done() {
		t.Errorf("%d journeys, done %v; want 3, true", n, st.Done())
	}
}

// TestMarkFilter: --mark shows only journeys that had such a mark.
func TestMarkFilter(t *testing.T) {
	w := newTrench()
	w.session.Mark, w.session.MarkMask = 0x1300, 0xff00
	s := newStream(t, w)
	someTraffic(s, 3)
	js := s.run(Options{})
	if len(js) != 3 {
		t.Errorf("%d journeys, want the 3 requests: replies have no mark", len(js))
	}
}

// TestEviction: more packets than may be kept are cut off and counted.
func TestEviction(t *testing.T) {
	s := newStream(t, newTrench())
	for i := range uint64(100) {
		s.tcp(i+1, i*100, client4, uint16(40000+i), vip4, 5000, syn).out(nsGW, ext0, 0)
	}
	var js []*Journey
	st := NewStitcher(Options{Emit: func(j *Journey) { js = append(js, j) }, MaxOpen: 10})
	s.feed(st)
	if st.Stats().Open != 10 || st.Stats().Evicted != 90 {
		t.Errorf("open %d, evicted %d; want 10, 90", st.Stats().Open, st.Stats().Evicted)
	}
	st.Flush()
	incomplete := 0
	for _, j := range js {
		if !j.Complete {
			incomplete++
		}
	}
	if len(js) != 100 || incomplete != 90 {
		t.Errorf("%d journeys, %d incomplete; want 100, 90", len(js), incomplete)
	}
}

// TestOrder: journeys come by start, not by end.
func TestOrder(t *testing.T) {
	s := newStream(t, newTrench())
	long := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB()
	s.tcp(2, 1000, client4, 40001, vip4, 6000, syn).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
	s.add(clock(100 * time.Millisecond))
	long.after(200 * time.Millisecond).balanced().toTarget()
	js := s.run(Options{})
	if len(js) != 2 || js[0].ID != "n1-1" || js[1].ID != "n1-2" {
		t.Fatalf("order is not by start")
	}
}

// TestCloneFirst: a copy's record may come before the record of the copying.
func TestCloneFirst(t *testing.T) {
	build := func(swap bool) []*Journey {
		s := newStream(t, newTrench())
		p := s.tcp(1, 0, client4, 40000, vip4, 5000, syn).in(nsPX, pxToLB, 0)
		c := p.clone(2, nsPX, pxToLB, us)
		n := len(s.items)
		c.out(nsPX, pxToT1, us).in(nsT1, nscT1, us)
		if swap {
			s.items[n-1], s.items[n] = s.items[n], s.items[n-1]
		}
		p.after(5*us).drop(nsPX, pxToLB, us, rOtherHost, atRcvCore)
		return s.run(Options{})
	}
	straight, swapped := build(false), build(true)
	if len(straight) != 1 || straight[0].Outcome != Delivered {
		t.Fatalf("%d journeys", len(straight))
	}
	swapped[0].Complete, swapped[0].Notes = true, nil
	if printed(t, swapped) != printed(t, straight) {
		t.Errorf("got\n%s\nwant\n%s", printed(t, swapped), printed(t, straight))
	}
}

// TestLateContext: names may come after the record; a change of the world
// after a decision must not look like a contradiction.
func TestLateContext(t *testing.T) {
	w := newTrench()
	all := w.contexts()
	s := &stream{t: t}
	s.contexts(all[0])
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.contexts(all[1:]...)
	gone := *w.routing[nsLB]
	gone.Rules = standardRules(4)
	s.contexts(&Context{Routing: &gone})
	js := s.run(Options{})
	if len(js) != 1 || js[0].Outcome != Delivered || js[0].Hops[0].Netns != "wm-meridio-gw" {
		t.Fatalf("late names were not used:\n%s", printed(t, js))
	}
	if out := printed(t, js); strings.Contains(out, "contradiction") && !strings.Contains(out, "rule 99") {
		t.Errorf("the rules of the time were forgotten:\n%s", out)
	}
}

// TestFlows: both directions of a flow side by side, whoever is seen first.
func TestFlows(t *testing.T) {
	s := newStream(t, newTrench())
	someTraffic(s, 3)
	s.tcp(100, 5_000_000, client4, 40000, vip4, 5000, ack).requestToLB().drop(nsLB, nsm1, 30*us, rNotSpecified, atReinject)
	s.tcp(101, 6_000_000, vip4, 5000, client4, 50000, synAck).reply() // the request was not seen
	s.packet(102, 7_000_000, client4, vip4, 1).echo(8, 0x1234, 1).request()
	s.packet(103, 7_300_000, vip4, client4, 1).echo(0, 0x1234, 1).reply()
	f := NewFlows()
	for _, j := range s.run(Options{}) {
		f.Add(j)
	}
	var b bytes.Buffer
	tw, jw := NewTextWriter(&b, TextOptions{}), NewJSONWriter(&b)
	for _, sum := range f.Summaries() {
		must(t, tw.Flow(sum))
		must(t, jw.Flow(sum))
	}
	goldenBytes(t, "flows.txt", b.Bytes())
}

// TestFlowDirection: the SYN decides, even after a packet the other way.
func TestFlowDirection(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, vip4, 5000, client4, 40000, ack).reply()
	s.tcp(2, 1_000_000, client4, 40000, vip4, 5000, syn).request()
	s.tcp(3, 2_000_000, vip4, 5000, client4, 40000, synAck).reply()
	js := s.run(Options{})
	want := "tcp 200.100.0.1:40000 10.0.0.1:5000"
	if js[1].Flow != want || js[1].Reply || js[2].Flow != want || !js[2].Reply {
		t.Errorf("flows %q %v, %q %v", js[1].Flow, js[1].Reply, js[2].Flow, js[2].Reply)
	}
}

// TestUntrackedDrop: a drop record without a trail is a journey of its own.
func TestUntrackedDrop(t *testing.T) {
	s := newStream(t, newTrench())
	for range 2 {
		p := s.tcp(0, 0, client4, 40000, vip4, 5000, syn)
		p.rec.Skb = 0
		p.drop(nsLB, nsm1, 0, rRPFilter, atRcvFinish)
	}
	js := s.run(Options{})
	if len(js) != 2 || js[0].ID != "n1-x1" || js[1].ID != "n1-x2" || js[0].Outcome != Dropped {
		t.Fatalf("got\n%s", printed(t, js))
	}
}

// TestOpenAtEnd: at the end of a stream a packet on its way is open.
func TestOpenAtEnd(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).requestToLB().balanced()
	js := s.run(Options{})
	if len(js) != 1 || js[0].Outcome != Open {
		t.Errorf("outcome %s, want open", js[0].Outcome)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
