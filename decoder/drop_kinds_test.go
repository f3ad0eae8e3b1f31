// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	. "waymark/decoder"
)

// morning is when drops begin.
const morning = WallTime(1_800_000_000 * time.Second)

// aDrop is a drop of UDP from src to 10.0.0.1:5000 at a time after morning.
func aDrop(at WallTime, src string, sport uint16) *Drop {
	return &Drop{
		Type: "drop", Time: morning + at, Node: "n1", Netns: "lb", Dev: "nsm-1", Reason: "NOT_SPECIFIED", At: "nf_queue+0x21f",
		Packet:  &Packet{Proto: "udp", Src: netip.MustParseAddr(src), SPort: sport, Dst: netip.MustParseAddr("10.0.0.1"), DPort: 5000, Len: 40},
		Because: "nobody listens on a netfilter queue in lb", Advice: "start the balancer in lb", Journey: fmt.Sprint("n1-", sport),
	}
}

// normally is a packet freed in normal use.
func normally(at WallTime) *Drop {
	return &Drop{
		Type: "drop", Time: morning + at, Node: "n1", Netns: "p1", Dev: "eth0", Reason: "OTHERHOST", At: "ip_rcv_core+0x1",
		Packet: &Packet{Proto: "arp"}, Normal: "a flooded copy for somebody else",
	}
}

// told feeds drops, and returns what
// is printed in each form.
func told(t *testing.T, o DropKindsOptions, feed func(k *DropKinds)) (text, lines string) {
	t.Helper()
	var tb, jb bytes.Buffer
	tw, jw := NewTextWriter(&tb, TextOptions{}), NewJSONWriter(&jb)
	o.First = func(d *Drop) { must(t, tw.Drop(d)); must(t, jw.Drop(d)) }
	o.Repeats = func(c *DropCount) { must(t, tw.Drops(c)); must(t, jw.Drops(c)) }
	k := NewDropKinds(o)
	k.Clock(morning)
	feed(k)
	must(t, tw.Totals(k.Totals(100)))
	must(t, jw.Totals(k.Totals(100)))
	return tb.String(), jb.String()
}

// mixed are two floods of which one stops and comes back, and what is normal.
func mixed(k *DropKinds) {
	for i := range uint16(2500) { // 1000/s
		k.Add(aDrop(WallTime(i)*second/1000, "200.100.0.1", i))
	}
	for i := range uint16(10) {
		k.Add(aDrop(2*second+second/2+WallTime(i), "200.100.0.2", i))
		k.Add(normally(2*second + second/2 + WallTime(i)))
	}
	for at := 3 * WallTime(second); at <= 15*second; at += second / 20 {
		k.Clock(morning + at)
	}
	k.Add(aDrop(15*second, "200.100.0.1", 7))
	k.Add(aDrop(15*second, "200.100.0.1", 8))
	k.Finish(morning + 15*second + second/2)
}

func TestDropKinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		opt  DropKindsOptions
	}{
		{"drop-kinds", DropKindsOptions{}},
		{"drop-kinds-all", DropKindsOptions{All: true}},
	} {
		text, lines := told(t, tt.opt, mixed)
		goldenBytes(t, tt.name+".txt", []byte(text))
		goldenBytes(t, tt.name+".json", []byte(lines))
	}
	_, lines := told(t, DropKindsOptions{Each: true, All: true}, mixed)
	if n := strings.Count(lines, `"type":"drop",`); n != 2522 || strings.Contains(lines, `"type":"drops"`) {
		t.Errorf("%d drops are shown one by one, want 2522 and no counts", n)
	}
}

// TestNoDrops: that there was nothing is said to people, and not in JSON.
func TestNoDrops(t *testing.T) {
	text, lines := told(t, DropKindsOptions{}, func(k *DropKinds) { k.Finish(morning + 5*second) })
	if text != "no drops in 5.0 s\n" || lines != "" {
		t.Errorf("%q, %q", text, lines)
	}
}

// TestDropKindsAreBounded: drops from ever new addresses are told in few lines,
// and every one is counted.
func TestDropKindsAreBounded(t *testing.T) {
	const each, seconds = 20_000, 3
	var firsts, repeated, lines uint64
	k := NewDropKinds(DropKindsOptions{
		First:   func(*Drop) { firsts++ },
		Repeats: func(c *DropCount) { repeated += c.Count; lines++ },
	})
	d := aDrop(0, "10.0.0.1", 1)
	for i := range each * seconds {
		d.Time = morning + WallTime(i)*second/each
		d.Packet.Src = netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		k.Add(d)
	}
	k.Finish(morning + seconds*second)
	if firsts+repeated != each*seconds {
		t.Errorf("%d shown and %d counted, want %d together", firsts, repeated, each*seconds)
	}
	if lines > 21*(seconds+1) || firsts > 20*(seconds+1) {
		t.Errorf("%d lines of counts and %d drops in %d s", lines, firsts, seconds)
	}
	table := k.Totals(100)
	var sum uint64
	for _, c := range table.Kinds {
		sum += c.Count
	}
	if table.Drops != each*seconds || sum != table.Drops || len(table.Kinds) != 101 || !table.Kinds[100].Others {
		t.Errorf("%d drops, %d in %d rows", table.Drops, sum, len(table.Kinds))
	}
}

// TestTop: the table goes by the rate of the last second, and the screen.
func TestTop(t *testing.T) {
	var b bytes.Buffer
	w := NewTextWriter(&b, TextOptions{})
	k := NewDropKinds(DropKindsOptions{})
	k.Clock(morning)
	for i := range uint16(3000) {
		k.Add(aDrop(WallTime(i)*second/3000, "200.100.0.1", i))
	}
	for i := range uint16(100) {
		k.Add(aDrop(second+WallTime(i)*second/100, fmt.Sprintf("200.100.1.%d", 1+i%4), i))
	}
	k.Add(normally(second))
	k.Clock(morning + 2*second)
	must(t, w.Top(k.Top(3), nil, Screen{}))
	b.WriteString("--- on a screen\n")
	must(t, w.Top(k.Top(3), &Status{Time: morning, Records: 3101}, Screen{Columns: 72, Rows: 24}))
	b.WriteString("--- at the end\n")
	k.Finish(morning + 2*second + 1)
	must(t, w.Top(k.Top(10), nil, Screen{}))
	goldenBytes(t, "top.txt", b.Bytes())

	for _, rows := range []int{1, 2, 3, 24, 1000} {
		b.Reset()
		screen := Screen{Columns: 10, Rows: rows}
		must(t, w.Top(k.Top(screen.TopRows()), &Status{}, screen))
		if n := strings.Count(b.String(), "\n"); n > max(rows-1, 0) {
			t.Errorf("%d lines on %d rows", n, rows)
		}
	}
}

// TestNormalFrees: what is no loss is told to who asks, and only then.
func TestNormalFrees(t *testing.T) {
	for _, asked := range []bool{false, true} {
		s := newStream(t, newTrench())
		s.tcp(1, 0, client4, 40000, vip4, 5000, ack).request().drop(0, 0, 3*us, rOldAck, atTCPRcv)
		s.tcp(2, 1000, client4, 40000, vip4, 5000, ack).request().drop(0, 0, 3*us, rSocketClose, atTCPRcv)
		var normal []*Drop
		o := Options{EmitDrop: func(*Drop) {}, LB: trenchLB{}}
		if asked {
			o.EmitNormal = func(d *Drop) { normal = append(normal, d) }
		}
		st := NewStitcher(o)
		s.feed(st)
		st.Flush()
		if (len(normal) == 2) != asked || st.Stats().Normal != uint64(len(normal)) {
			t.Errorf("asked %v: %d told, %d counted", asked, len(normal), st.Stats().Normal)
		}
		for _, d := range normal {
			if d.Type != "drop" || d.Normal == "" || d.Packet == nil || d.Time == 0 || d.Because != "" {
				t.Errorf("%+v", d)
			}
		}
	}
}

func TestDropCounters(t *testing.T) {
	c := NewDropCounters()
	for i := range 3000 {
		d := aDrop(0, "200.100.0.1", 1)
		d.Netns = fmt.Sprint("ns", i%1500)
		c.Add(d)
		c.Add(normally(0))
	}
	c.SetStatus(&Status{Records: 9})
	s := c.Read()
	sum := s.Others
	for _, d := range s.Series {
		sum += d.Count
	}
	if len(s.Series) != 1000 || s.Others != 1000 || sum != 3000 || s.Status.Records != 9 || len(s.Normal) != 1 || s.Normal[0].Count != 3000 {
		t.Errorf("%d series, %d others, %d in all, %v normal", len(s.Series), s.Others, sum, s.Normal)
	}
	if s.Series[0].Function != "nf_queue" {
		t.Errorf("function %q", s.Series[0].Function)
	}
}

// BenchmarkDropKinds is a repeated drop: as many as 1000 kinds at 200,000 per
// second, with what is printed of them.
func BenchmarkDropKinds(b *testing.B) {
	for _, kinds := range []int{1, 1000} {
		b.Run(fmt.Sprint(kinds), func(b *testing.B) {
			w := NewTextWriter(io.Discard, TextOptions{})
			k := NewDropKinds(DropKindsOptions{First: func(d *Drop) { _ = w.Drop(d) }, Repeats: func(c *DropCount) { _ = w.Drops(c) }})
			counters := NewDropCounters()
			drops := make([]*Drop, kinds)
			for i := range drops {
				drops[i] = aDrop(0, netip.AddrFrom4([4]byte{11, 0, byte(i >> 8), byte(i)}).String(), 1)
			}
			b.ReportAllocs()
			at := morning
			for i := 0; b.Loop(); i++ {
				at += second / 200_000
				d := drops[i%kinds]
				d.Time = at
				k.Add(d)
				counters.Add(d)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "drops/s")
		})
	}
}

// TestRepeatsAllocateNothing: a drop of a known kind costs no memory.
func TestRepeatsAllocateNothing(t *testing.T) {
	k, c := NewDropKinds(DropKindsOptions{}), NewDropCounters()
	a, b := aDrop(0, "200.100.0.1", 1), aDrop(0, "200.100.0.2", 1)
	add := func() {
		for _, d := range []*Drop{a, b} {
			k.Add(d)
			c.Add(d)
		}
	}
	add()
	if n := testing.AllocsPerRun(100, add); n != 0 {
		t.Errorf("%v allocations for two drops", n)
	}
}

// BenchmarkDrops is the whole way of a flood that nobody takes: records of
// drops alone, as `drops` gets them, to what is printed.
func BenchmarkDrops(b *testing.B) {
	const n = 1000
	s := &stream{t: b}
	for i := range uint64(n) {
		p := s.tcp(i+1, i*5_000, client4, uint16(40000+i), vip4, 5000, syn)
		p.drop(nsLB, nsm1, 0, rNotSpecified, atNFQueue)
	}
	w := NewTextWriter(io.Discard, TextOptions{})
	k := NewDropKinds(DropKindsOptions{First: func(d *Drop) { _ = w.Drop(d) }, Repeats: func(c *DropCount) { _ = w.Drops(c) }})
	st := NewStitcher(Options{EmitDrop: k.Add, EmitNormal: k.Add, EmitClock: k.Clock, LB: trenchLB{}})
	for _, c := range newTrench().contexts() {
		_ = st.Context(c)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		raw := s.items[i%n].([]byte)
		if err := st.Record(raw); err != nil {
			b.Fatal(err)
		}
		shift(raw, n*5_000, n)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "drops/s")
}

// TestEqualDrops: a record that tells of more drops counts for all of them.
func TestEqualDrops(t *testing.T) {
	s := newStream(t, newTrench())
	for i, more := range []uint32{0, 41} {
		p := s.tcp(uint64(i)+1, 0, client4, 40000, "10.9.0.1", 80, syn)
		p.rec.Equal = more
		p.drop(nsLB, nsm1, us, rInNoRoutes, atIPError)
	}
	var repeats uint64
	first, counters := 0, NewDropCounters()
	kinds := NewDropKinds(DropKindsOptions{First: func(*Drop) { first++ }, Repeats: func(c *DropCount) { repeats += c.Count }})
	st := NewStitcher(Options{EmitDrop: func(d *Drop) { kinds.Add(d); counters.Add(d) }})
	s.feed(st)
	st.Flush()
	kinds.Finish(st.Status().Time)
	if total := kinds.Totals(1).Drops; first != 1 || repeats != 42 || total != 43 || st.Stats().Drops != 43 {
		t.Errorf("%d shown, %d counted, %d in the totals, %d by the stitcher; want 1, 42, 43, 43", first, repeats, total, st.Stats().Drops)
	}
	if c := counters.Read().Series; len(c) != 1 || c[0].Count != 43 {
		t.Errorf("%+v, want one counter of 43", c)
	}
}
