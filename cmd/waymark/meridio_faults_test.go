// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"waymark/decoder"
	"waymark/scenarios"
)

// tracedFaults are the faults of the Meridio lab that TestFaultsWhileTraced sets, one
// trace for all. Those of a row are set together: each breaks other connections.
// What changes the flow comes last, for a balancer's state is read twice a second.
var tracedFaults = [][]string{
	{"no-source-rule", "no-target-route", "small-mtu"},
	{"balancer-stuck"},
	{"vip-not-queued"},
	{"forwarding-off"},
	{"wrong-mark"},
	{"proxy-link-down"},
	{"no-ptb"},
	{"no-address"},
	{"vip-unannounced"},
	{"old-flow"},
}

func isTraced(name string) bool {
	return slices.ContainsFunc(tracedFaults, func(row []string) bool { return slices.Contains(row, name) })
}

// brokenTime is when a row of faults was set, and what was sent then.
type brokenTime struct {
	faults        []scenarios.Fault
	set, ready    time.Time       // before and after it was set
	cleared, over time.Time       // before and after it was cleared
	first, mended uint16          // source ports of traffic while it was set, and afterwards: a hundred of each kind
	failed        map[uint16]bool // source ports
	explained     map[uint16]int  // likewise: by how many of the faults
	early         map[uint16]bool // lost before waymark had read what was broken
	because       map[string]bool // of drops
}

// readTime is how long after a fault was set what it broke may be told as if it were
// not known: waymark has read the namespace by then.
func readTime() time.Duration {
	if testing.Short() { // an emulated machine
		return 700 * time.Millisecond
	}
	return 200 * time.Millisecond
}

// late is until when packets may still be lost by what was broken: routes are in
// use a moment after they are put back.
func (b *brokenTime) late() time.Time { return b.over.Add(readTime()) }

func (b *brokenTime) names() (names []string) {
	for _, f := range b.faults {
		names = append(names, f.Name)
	}
	return names
}

// trafficKind is one of the kinds of traffic sent, which have a hundred ports each.
type trafficKind struct {
	ip  int
	big bool // datagrams that fit the lab's MTU, but no smaller one
}

var trafficKinds = []trafficKind{{ip: 4}, {ip: 6}, {ip: 4, big: true}, {ip: 6, big: true}}

// TestFaultsWhileTraced breaks the lab and mends it while a trace runs: what was
// lost meanwhile is explained by what was broken, what comes afterwards is
// answered, and both times are told.
func TestFaultsWhileTraced(t *testing.T) {
	w := labUpFor(t)
	file := filepath.Join(t.TempDir(), "faults.pcapng")
	args := append([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w)...)
	tr := start(t, append(args, "port", "5000")...)
	var times []*brokenTime
	// What was there before is known of every namespace that a packet came by.
	if sum, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 24}, nil); err != nil || sum.Failed > 0 || len(sum.Targets) != 3 {
		t.Fatalf("before anything is broken: %+v, %v", sum, err)
	}
	port := uint16(20000)
	for _, row := range tracedFaults {
		b := &brokenTime{first: port, mended: port + 400, failed: map[uint16]bool{}, explained: map[uint16]int{}, early: map[uint16]bool{}, because: map[string]bool{}}
		port += 800
		times = append(times, b)
		b.run(t, w, row)
	}
	out := tr.stop(t)
	all := parseJourneys(t, out)
	for _, b := range times {
		for _, f := range b.faults {
			t.Run(f.Name, func(t *testing.T) { b.check(t, f, all) })
		}
		for _, j := range all { // a slow machine's client gave up, but the way there and back works
			if j.Reply && j.Start.Before(b.cleared) && (j.Packet.Flags == "S." || j.Packet.Proto == "udp") {
				delete(b.failed, j.Packet.DPort)
			}
		}
		b.checkExplained(t)
	}
	checkDates(t, times, out)
	drops, _, _ := run0(t, "replay", "--drops", "-o", "json", file)
	checkDropDates(t, times, drops)
	if t.Failed() {
		t.Logf("trace said: %s", tr.stderr.String())
	}

	replayed, stderr, code := run0(t, "replay", "-o", "json", file)
	if code != 0 || replayed != string(out) {
		t.Errorf("replay (exit %d, %s) prints %d bytes, live printed %d", code, stderr, len(replayed), len(out))
	}
	text, _, _ := run0(t, "replay", file)
	if !strings.Contains(text, ", but not answered\n") || !strings.Contains(text, " not answered in wm-meridio-t1/nsc, from ") {
		t.Error("the text does not tell of silent losses")
	}
}

// run sets the faults, sends, clears them, and sends again.
func (b *brokenTime) run(t *testing.T, w *scenarios.World, names []string) {
	t.Helper()
	i := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == "meridio" })
	timeout, wait := 600*time.Millisecond, time.Duration(0)
	if testing.Short() {
		timeout = 1300 * time.Millisecond // TCP tries again after a second
	}
	b.set = time.Now()
	for _, f := range scenarios.List()[i].Faults {
		if slices.Contains(names, f.Name) {
			b.faults = append(b.faults, f)
			wait = max(wait, f.Expect.Wait)
			if f.Expect.Outcome == "open" {
				wait = max(wait, decoder.DefaultQueued)
			}
			if err := w.Fault(ctxBackground, f.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.ready = time.Now()
	b.fail(t, w, b.first, timeout+wait)
	if slices.ContainsFunc(b.faults, func(f scenarios.Fault) bool { return slices.Contains(f.Traffic, "--udp") }) {
		b.fail(t, w, b.first+50, timeout) // datagrams are not sent again
	}
	b.cleared = time.Now()
	for _, name := range names {
		if err := w.Clear(ctxBackground, name); err != nil {
			t.Fatal(err)
		}
	}
	b.over = time.Now()
	b.send(t, w, b.mended, 6, 5*time.Second, func(x scenarios.Exchange) {
		if x.Err != nil {
			t.Errorf("%v is cleared, but from %s: %v", names, x.Local, x.Err)
		}
	})
}

// checkExplained wants one of the faults, and no more, to explain each connection
// that failed.
func (b *brokenTime) checkExplained(t *testing.T) {
	t.Helper()
	var without []uint16
	for port := range b.failed {
		switch n := b.explained[port]; {
		case n > 1:
			t.Errorf("port %d: %d of the faults %v explain why it failed, want 1", port, n, b.names())
		case n == 0 && !b.early[port] && b.breaks(port):
			without = append(without, port)
		}
	}
	some := 0
	if testing.Short() { // an emulated machine loses a packet now and then by itself
		some = len(b.failed) / 20
	}
	if len(without) > some {
		t.Errorf("%d of %d connections failed and none of the faults %v explains why: %d", len(without), len(b.failed), b.names(), without)
	}
}

// fail sends what may fail, from ports that count up from first.
func (b *brokenTime) fail(t *testing.T, w *scenarios.World, first uint16, timeout time.Duration) {
	t.Helper()
	const connections = 12
	for i := range trafficKinds {
		for n := range connections {
			b.failed[first+uint16(100*i+n)] = true
		}
	}
	var mu sync.Mutex
	b.send(t, w, first, connections, timeout, func(x scenarios.Exchange) {
		if x.Err == nil {
			mu.Lock()
			delete(b.failed, x.Local.Port())
			mu.Unlock()
		}
	})
}

func (b *brokenTime) send(t *testing.T, w *scenarios.World, first uint16, n int, timeout time.Duration, each func(scenarios.Exchange)) {
	t.Helper()
	var wg sync.WaitGroup
	for i, k := range trafficKinds {
		wg.Go(func() {
			client := map[int]string{4: "200.100.0.1", 6: "200:100::1"}[k.ip]
			traffic := scenarios.Traffic{
				Connections: n, Concurrency: n, IPv6: k.ip == 6, Timeout: timeout,
				Source: netip.AddrPortFrom(netip.MustParseAddr(client), first+uint16(i)*100),
			}
			if k.big {
				traffic.UDP, traffic.Size = true, 1400
			}
			if _, err := w.Send(ctxBackground, traffic, each); err != nil {
				t.Errorf("%+v: %v", k, err)
			}
		})
	}
	wg.Wait()
}

// check wants the fault's diagnosis of the packets that it kept from their answer.
func (b *brokenTime) check(t *testing.T, f scenarios.Fault, all []journey) {
	lost := map[string]int{}
	explained := map[uint16]bool{}
	for _, j := range all {
		port := j.Packet.SPort
		if j.Reply {
			port = j.Packet.DPort
		}
		opening := strings.HasPrefix(j.Packet.Flags, "S") || j.Packet.Proto == "udp"
		if port >= b.mended && port < b.mended+400 {
			// The last of them may be on their way when the next fault is set.
			if opening && (j.Because != "" || j.Drop != nil) {
				t.Errorf("after it was cleared: %s, because %q, %+v (%s)", j.Outcome, j.Because, j.Drop, j.way())
			}
			continue
		}
		if !b.failed[port] || !opening || j.Start.After(b.cleared) {
			continue
		}
		if j.Because == "" && j.Drop == nil {
			if j.Packet.Proto == "udp" && j.Start.Before(b.ready.Add(readTime())) {
				b.early[port] = true // and not sent again
			}
			continue
		}
		got, kind := diagnosisOf(&j), trafficKinds[(port-b.first)/100]
		if got.question != f.Question {
			another := slices.ContainsFunc(b.faults, func(f scenarios.Fault) bool { return f.Question == got.question && f.Expect.Netns == got.netns })
			switch {
			case j.Start.Before(b.ready.Add(readTime())):
				b.early[port] = b.early[port] || !another
			case !another && b.breaks(port):
				t.Errorf("explained as %+v, want question %s (%s)", got, f.Question, j.way())
			}
			continue
		}
		explained[port] = true
		if j.Drop != nil {
			b.because[got.because] = true
		}
		lost[fmt.Sprintf("IPv%d %s %s", kind.ip, functionOf(got.at), got.reason)]++
		dev, site := f.Expect.Dev, siteFor(f, kind.ip)
		if site != nil {
			dev = cmp.Or(site.Dev, dev)
		}
		switch {
		case got.because == "" || got.advice == "":
			t.Errorf("explained as %+v (%s)", got, j.way())
		case j.Outcome != f.Expect.Outcome || got.netns != f.Expect.Netns || got.dev != dev || j.Reply != (f.Expect.Packet == "reply"):
			t.Errorf("%s in %s/%s, reply %v, want %s, the %s, in %s/%s (%s)", j.Outcome, got.netns, got.dev, j.Reply, f.Expect.Outcome, f.Expect.Packet, f.Expect.Netns, dev, j.way())
		case slices.Contains(f.Expect.Silent, kind.ip):
			if j.Drop != nil {
				t.Errorf("the kernel dropped it, %s at %s, want a silent loss", got.reason, got.at)
			}
		case site == nil:
			t.Errorf("the table says nothing about IPv%d on kernel %s: %s at %s", kind.ip, kernelLine(), got.reason, got.at)
		case !site.Is(got.reason, functionOf(got.at)):
			t.Errorf("IPv%d %s at %s, want %s at %v", kind.ip, got.reason, got.at, site.Reason, site.At)
		}
	}
	for port := range explained {
		b.explained[port]++
	}
	t.Logf("%d of %d failed connections explained: %v", len(explained), len(b.failed), lost)
	if len(explained) == 0 {
		dump(t, b.some(all))
	}
	for i, k := range trafficKinds {
		told := slices.ContainsFunc(slices.Collect(maps.Keys(explained)), func(p uint16) bool { return (p-b.first)/100 == uint16(i) })
		if !told && k.big == slices.Contains(f.Traffic, "--udp") {
			t.Errorf("nothing is told of %+v", k)
		}
	}
}

// breaks tells whether the faults break connections of the port's kind: some lose
// big packets alone.
func (b *brokenTime) breaks(port uint16) bool {
	return trafficKinds[(port-b.first)/100].big || !slices.Contains(b.faults[0].Traffic, "--udp")
}

// some are a few journeys of the connections that failed.
func (b *brokenTime) some(all []journey) (some []journey) {
	for _, j := range all {
		if b.failed[j.Packet.SPort] && len(some) < 12 {
			some = append(some, j)
		}
	}
	return some
}

// diagnosis is what was told of a loss, silent or not.
type diagnosis struct{ netns, dev, reason, at, because, advice, question string }

func diagnosisOf(j *journey) diagnosis {
	if d := j.Drop; d != nil {
		return diagnosis{d.Netns, d.Dev, d.Reason, d.At, d.Because, d.Advice, d.Question}
	}
	d := diagnosis{because: j.Because, advice: j.Advice, question: j.Question}
	for _, h := range j.Hops {
		if h.Group == "device" {
			d.netns, d.dev = h.Netns, h.Dev
		}
	}
	return d
}

// checkDates wants the times of silent losses within those of the faults.
func checkDates(t *testing.T, times []*brokenTime, out []byte) {
	t.Helper()
	dated := map[string]int{}
	for line := range strings.Lines(string(out)) {
		var u decoder.Unanswered
		if json.Unmarshal([]byte(line), &u) != nil || u.Type != "unanswered" {
			continue
		}
		for _, b := range times {
			if !slices.ContainsFunc(b.faults, func(f scenarios.Fault) bool { return f.Question == u.Question && len(f.Expect.Silent) > 0 }) {
				continue
			}
			dated[u.Question]++
			at := func(w decoder.WallTime) time.Time { return time.Unix(0, int64(w)) }
			// A packet that came just before may be the first that is held.
			if at(u.Since).Before(b.set.Add(-50*time.Millisecond)) || at(u.Last).After(b.late()) || u.Since > u.Last {
				t.Errorf("%s: from %v to %v, but it was set at %v and cleared by %v", u.Question, at(u.Since), at(u.Last), b.set, b.over)
			}
			if u.Until != 0 && at(u.Until).Before(b.cleared) {
				t.Errorf("%s: mended by %v, but it was cleared at %v", u.Question, at(u.Until), b.cleared)
			}
			if u.Question != "M30" && (at(u.Broken).Before(b.set) || u.Broken > u.Last || u.Until == 0) {
				t.Errorf("%s: broken since %v, mended by %v, but it was set at %v and cleared at %v", u.Question, at(u.Broken), at(u.Until), b.set, b.cleared)
			}
		}
	}
	if dated["M26"] != 4 || dated["M27"] != 4 || dated["M30"] == 0 { // TCP and UDP, IPv4 and IPv6
		t.Errorf("times without an answer: %v", dated)
	}
}

// checkDropDates wants the first and last drop of each kind within the time of the
// fault that they are explained by.
func checkDropDates(t *testing.T, times []*brokenTime, drops string) {
	t.Helper()
	var table decoder.DropTable
	lines := strings.Split(strings.TrimSpace(drops), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &table); err != nil || table.Type != "drop_totals" {
		t.Fatalf("no totals at the end: %s, %v", lines[len(lines)-1], err)
	}
	for _, b := range times {
		kinds := 0
		for _, k := range table.Kinds {
			if !b.because[k.Because] {
				continue
			}
			kinds++
			since, last := time.Unix(0, int64(k.Since)), time.Unix(0, int64(k.Last))
			if since.Before(b.set) || last.After(b.late()) || last.Before(since) {
				t.Errorf("%v: drops from %v to %v, but it was set at %v and cleared by %v: %s", b.names(), since, last, b.set, b.over, k.Because)
			}
		}
		if kinds == 0 && len(b.because) > 0 {
			t.Errorf("%v: no drops in the totals", b.names())
		}
	}
}
