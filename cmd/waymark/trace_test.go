// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"waymark/scenarios"
)

// identifiers of the lab's targets, whose marks are 5000 more, by Maglev index.
var targetOf = map[string]int{"target-1": 47, "target-2": 57, "target-3": 66}

func TestTraceFollowsAConnectionThroughMeridio(t *testing.T) {
	w := labUpFor(t)
	for _, tt := range []struct {
		name, filter string
		traffic      scenarios.Traffic
	}{
		{"IPv4", "tcp any 10.0.0.1:5000", scenarios.Traffic{}},
		{"IPv6", "tcp any [1000::1:a00:1]:5000", scenarios.Traffic{IPv6: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.pcapng")
			args := append([]string{"trace", "-o", "json", "-w", file}, netnsFlags(w)...)
			tr := start(t, append(args, strings.Fields(tt.filter)...)...)
			var target string
			if _, err := w.Send(ctxBackground, tt.traffic, func(x scenarios.Exchange) { target = x.Reply.Target }); err != nil {
				t.Fatal(err)
			}
			out := tr.stop(t)
			all := parseJourneys(t, out)
			dump(t, all)

			n := target[len(target)-1:]
			syn := find(all, func(j *journey) bool { return j.Packet.Flags == "S" })
			if syn == nil {
				t.Fatal("no journey of the SYN")
			}
			index := targetOf[target]
			want := fmt.Sprintf("gw/ext0 out, lb/nsm-1 in, lb lb %d, lb table %d, lb/load-balan-274a out, "+
				"px/load-balan-b0ef in, px/proxy.load-000%s out, t%s/nsc in, delivered", index, 5001+index, n, n)
			if got := syn.way(); got != want {
				t.Errorf("the SYN went\n  %s\nwant\n  %s", got, want)
			}
			marks := map[string]uint32{}
			for _, h := range syn.Hops {
				if h.Mark != nil && h.Group == "device" {
					marks[h.Netns+"/"+h.Dev] = *h.Mark
				}
			}
			if m := marks["wm-meridio-lb/load-balan-274a"]; m != uint32(5001+index) {
				t.Errorf("mark %d on the way out of lb, want %d", m, 5001+index)
			}

			checkQueueHops(t, syn)

			synack := find(all, func(j *journey) bool { return j.Packet.Flags == "S." })
			if synack == nil {
				t.Fatal("no journey of the SYN-ACK")
			}
			table := 1
			want = fmt.Sprintf("t%s/nsc out, px/proxy.load-000%s in, px/bridge0 in, px table %d, px/bridge0 out, px/load-balan-b0ef out, "+
				"lb/load-balan-274a in, lb table 4096, lb/nsm-1 out, gw/ext0 in, delivered", n, n, table)
			if got := synack.way(); got != want {
				t.Errorf("the SYN-ACK went\n  %s\nwant\n  %s", got, want)
			}
			if !synack.Reply || synack.Flow != syn.Flow {
				t.Errorf("the SYN-ACK is not the reply of flow %q: reply %v, flow %q", syn.Flow, synack.Reply, synack.Flow)
			}
			for _, j := range all {
				if j.refusedByTCP() {
					continue
				}
				if j.Outcome != "delivered" || !j.Complete {
					t.Errorf("%s %s: %s %v, complete %v %v", j.ID, j.Packet.Flags, j.Outcome, j.Drop, j.Complete, j.Notes)
				}
			}

			replayed, stderr, code := run0(t, "replay", "-o", "json", file)
			if code != 0 || replayed != string(out) {
				t.Errorf("replay (exit %d, %s) prints\n%s\nlive printed\n%s", code, stderr, replayed, out)
			}
			checkWithWireshark(t, file)
		})
	}
}

// checkQueueHops wants, where this kernel shows them, the packet's stay in the
// balancer's queue around what the balancer decided.
func checkQueueHops(t *testing.T, syn *journey) {
	t.Helper()
	var got []string
	for _, h := range syn.Hops {
		if h.Group == "queue" || h.Group == "lb" {
			got = append(got, h.Group+"/"+h.Hook)
		}
		if q, ok := h.Detail["queue"].(float64); h.Group == "queue" && (!ok || q < 0 || q > 3) {
			t.Errorf("%s in queue %v, the lab has 0 to 3", h.Hook, h.Detail["queue"])
		}
		if h.Hook == "verdict" && (h.Verdict != "accept" || h.Detail["wait_ns"].(float64) <= 0) {
			t.Errorf("verdict %s after %v ns, want accept after some time", h.Verdict, h.Detail["wait_ns"])
		}
	}
	want := []string{"queue/enqueue", "lb/decide", "queue/verdict"}
	if !showsFunctions() {
		t.Logf("this kernel does not show queues: doctor says so")
		want = []string{"lb/decide"}
	}
	if !slices.Equal(got, want) {
		t.Errorf("hops %v, want %v", got, want)
	}
}

// showsFunctions tells whether this kernel can be probed at its functions: the
// machines of scenarios/vm can. What doctor says of each hook there TestHooksPage
// holds it to; to ask it attaches all of them, which takes longer than a test.
func showsFunctions() bool { return features.HaveProgramType(ebpf.Tracing) == nil }

// needFunctions skips a test of what only functions tell.
func needFunctions(t *testing.T) {
	t.Helper()
	if !showsFunctions() {
		t.Skip("SKIPPED here, it runs on the kernels in the VM: this one has no programs of type tracing, doctor says so")
	}
}

// refusedByTCP tells whether TCP had no use for what arrived: a segment sent
// again that it has, or one for a connection that it closed. Both happen on a
// slow machine, and are no fault of the way there.
func (j *journey) refusedByTCP() bool {
	return j.Drop != nil && strings.HasPrefix(j.Drop.At, "tcp_") && !strings.HasPrefix(j.Packet.Flags, "S")
}

// checkWithWireshark opens a recording with tshark and capinfos where they
// are installed (not inside the VMs).
func checkWithWireshark(t *testing.T, file string) {
	t.Helper()
	for _, tool := range []string{"tshark", "capinfos"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Logf("%s is not here", tool)
			return
		}
	}
	cmd := exec.Command("tshark", "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_id")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	warnings := strings.ReplaceAll(stderr.String(), `Running as user "root" and group "root". This could be dangerous.`, "")
	if err != nil || strings.TrimSpace(warnings) != "" {
		t.Errorf("tshark: %v: %s", err, warnings)
	}
	if !strings.Contains(string(out), "wm-meridio-lb/nsm-1\t") {
		t.Errorf("tshark does not show the interface: %s", out)
	}
	for line := range strings.Lines(string(out)) {
		_, id, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if n, err := strconv.ParseUint(id, 0, 64); err != nil || n == 0 {
			t.Errorf("tshark shows no packet id: %q", line)
		}
	}
	if out, err := exec.Command("capinfos", file).CombinedOutput(); err != nil {
		t.Errorf("capinfos: %v: %s", err, out)
	}
}

func TestFaultsAreFound(t *testing.T) {
	w := labUpFor(t)
	i := slices.IndexFunc(scenarios.List(), func(l scenarios.Lab) bool { return l.Name == "meridio" })
	drops := start(t, append([]string{"drops", "-o", "json"}, netnsFlags(w)...)...)
	// Ports of their own: connections of the last fault may still retransmit.
	port := uint16(20000)
	var found []faultCase
	for _, f := range scenarios.List()[i].Faults {
		if isTraced(f.Name) || f.Name == reversedFault {
			continue
		}
		cases := faultCases(t, f, &port)
		t.Run(f.Name, func(t *testing.T) { findFault(t, w, f, cases) })
		found = append(found, cases...)
	}
	fragments := false
	t.Run(reversedFault, func(t *testing.T) {
		fragments = true
		loseFragments(t, w)
	})
	lines := parseDrops(t, drops.stop(t))
	if fragments {
		checkFragments(t, lines)
	}
	for _, c := range found {
		shown := 0
		questions := map[string]int{}
		for _, d := range lines {
			if way, ok := c.wayOf(d); ok && c.here(d, way) {
				shown++
				questions[d.Question]++
			}
		}
		// On a slow machine the first may be told before what was changed.
		if 2*questions[c.fault.Question] < shown {
			t.Errorf("%s/IPv%d: `waymark drops` explains most as %v, want %s", c.fault.Name, c.ip, questions, c.fault.Question)
		}
		if shown < c.dropped {
			t.Errorf("%s/IPv%d: `waymark drops` shows %d of the %d drops that trace shows", c.fault.Name, c.ip, shown, c.dropped)
		}
	}
}

// faultCases are what f's table says for this kernel, an IP version each, with
// casePorts source ports from port.
func faultCases(t *testing.T, f scenarios.Fault, port *uint16) (cases []faultCase) {
	t.Helper()
	for _, ip := range []int{4, 6} {
		site := siteFor(f, ip)
		if site == nil && !slices.ContainsFunc(f.Expect.Drops, func(s scenarios.Site) bool { return s.IP == ip }) {
			continue // the fault is of the other family alone
		}
		if site == nil {
			t.Errorf("%s: the table says nothing about IPv%d on kernel %s", f.Name, ip, kernelLine())
			continue
		}
		cases = append(cases, faultCase{fault: f, ip: ip, site: *site, first: *port})
		*port += casePorts
	}
	return cases
}

func siteFor(f scenarios.Fault, ip int) *scenarios.Site {
	for i, s := range f.Expect.Drops {
		if s.IP == ip && s.Kernel == kernelLine() {
			return &f.Expect.Drops[i]
		}
	}
	return nil
}

// findFault sets a fault, traces what it breaks, and wants the diagnosis.
func findFault(t *testing.T, w *scenarios.World, f scenarios.Fault, cases []faultCase) {
	if err := w.Fault(ctxBackground, f.Name); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Clear(ctxBackground, f.Name); err != nil {
			t.Errorf("clear: %v", err)
		}
		mended(t, w, cases)
	}()
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "port", "5000")...)
	var wg sync.WaitGroup
	for i := range cases {
		c := &cases[i]
		wg.Go(func() {
			const connections = 24
			source := netip.AddrPortFrom(netip.MustParseAddr(map[int]string{4: "200.100.0.1", 6: "200:100::1"}[c.ip]), c.first)
			sum, err := w.Send(ctxBackground, scenarios.Traffic{
				Connections: connections, Concurrency: connections, IPv6: c.ip == 6, Timeout: 1500e6 + f.Expect.Wait, Source: source,
			}, nil)
			if err != nil {
				t.Errorf("IPv%d: %v", c.ip, err)
			}
			c.failed = sum.Failed
		})
	}
	wg.Wait()
	all := parseJourneys(t, tr.stop(t))
	for i := range cases {
		t.Run(fmt.Sprintf("IPv%d", cases[i].ip), func(t *testing.T) { cases[i].checkDiagnosis(t, all) })
	}
}

func (c *faultCase) checkDiagnosis(t *testing.T, all []journey) {
	if c.failed == 0 {
		t.Error("the fault breaks no traffic")
	}
	f, site := c.fault, c.site
	sites := map[string]int{}
	for _, j := range all {
		opening := strings.HasPrefix(j.Packet.Flags, "S") // how connections that work end is TCP's affair
		if j.Drop == nil || !opening || !c.ours(j.Packet.SPort) && !c.ours(j.Packet.DPort) {
			continue
		}
		// A SYN that was sent again, to a connection that is there by now: where only
		// some answers are lost.
		if functionOf(j.Drop.At) == "tcp_validate_incoming" {
			continue
		}
		c.dropped++
		sites[functionOf(j.Drop.At)+" "+j.Drop.Reason]++
		if j.Outcome != f.Expect.Outcome || j.Drop.Netns != f.Expect.Netns || j.Drop.Dev != f.Expect.Dev ||
			!site.Is(j.Drop.Reason, functionOf(j.Drop.At)) {
			t.Errorf("%s by %s/%s at %s: %s; want %s by %s/%s at %v: %s (%s)", j.Outcome, j.Drop.Netns, j.Drop.Dev, j.Drop.At, j.Drop.Reason,
				f.Expect.Outcome, f.Expect.Netns, f.Expect.Dev, site.At, site.Reason, j.way())
		}
		if j.Reply != (f.Expect.Packet == "reply") {
			t.Errorf("the lost packet is a reply: %v, want the %s", j.Reply, f.Expect.Packet)
		}
		if !c.explains(j.Drop.Question, j.Drop.Because, j.Drop.Advice) {
			t.Errorf("explained as %s %q %q, want question %s", j.Drop.Question, j.Drop.Because, j.Drop.Advice, f.Question)
		}
	}
	if c.dropped == 0 {
		dump(t, all[:min(len(all), 6)])
		t.Fatal("no journey was dropped")
	}
	t.Logf("%d of %d journeys dropped: %v", c.dropped, len(all), sites)
}

func TestKilledRecorderLeavesAReplayableFile(t *testing.T) {
	if testing.Short() {
		t.Skip("short: no kernel has part in this, it runs on the host")
	}
	w := labUpFor(t)
	file := filepath.Join(t.TempDir(), "killed.pcapng")
	args := append([]string{"record", "-w", file}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	if _, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 20}, nil); err != nil {
		t.Fatal(err)
	}
	awaitSize(t, file, 20_000)
	if err := tr.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-tr.eof
	_ = tr.cmd.Wait()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// And one that was cut in the middle of a block by a full disk.
	for _, n := range []int{len(whole), len(whole) - 7} {
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		out, stderr, code := run0(t, "replay", "-o", "json", file)
		if code != 0 || len(parseJourneys(t, []byte(out))) == 0 {
			t.Errorf("replay of %d bytes: exit %d, %d bytes of output, %s", n, code, len(out), stderr)
		}
		if n < len(whole) && !strings.Contains(stderr, "cut off at byte") {
			t.Errorf("replay does not say that the file is cut off: %q", stderr)
		}
	}
}

// awaitSize waits until the file has that many bytes: the recorder flushes by
// its own clock.
func awaitSize(t *testing.T, file string, size int64) {
	t.Helper()
	for range 1000 {
		if info, err := os.Stat(file); err == nil && info.Size() >= size {
			return
		}
		tick(t)
	}
	t.Fatalf("%s did not grow to %d bytes", file, size)
}

// TestReplayIsTheSameUnderLimits: options that cut the output short are in the
// recording, so that replay stops where live stopped.
func TestReplayIsTheSameUnderLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("short: limits are not the kernel's affair, this runs on the host")
	}
	w := labUpFor(t)
	limits := [][]string{{"-c", "25"}, {"-s", "40"}, {"--mark", "0x13b8", "-c", "3"}, {"-s", "16384"}, {"--follow-reply=false"}}
	for _, flags := range limits {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.pcapng")
			args := append([]string{"trace", "-o", "json", "-w", file}, flags...)
			args = append(append(args, netnsFlags(w)...), "tcp", "any", "10.0.0.1:5000")
			tr := start(t, args...)
			if _, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 30}, nil); err != nil {
				t.Fatal(err)
			}
			live := tr.stop(t)
			all := parseJourneys(t, live)
			if len(all) == 0 {
				t.Fatal("nothing was traced")
			}
			if flags[0] == "-c" && len(all) != 25 {
				t.Errorf("%d journeys, want 25", len(all))
			}
			for _, j := range all {
				if flags[0] == "--follow-reply=false" && j.Packet.SPort == 5000 {
					t.Errorf("a reply was traced: %s", j.way())
				}
			}
			if replayed, stderr, _ := run0(t, "replay", "-o", "json", file); replayed != string(live) {
				t.Errorf("replay prints %d bytes, live printed %d: %s", len(replayed), len(live), stderr)
			}
		})
	}
}

// TestBalancerDiesWhileTraced: what was true a moment ago explains nothing.
func TestBalancerDiesWhileTraced(t *testing.T) {
	w := labUpFor(t)
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	if _, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 4}, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.Fault(ctxBackground, "no-listener"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Send(ctxBackground, scenarios.Traffic{Timeout: 300e6}, nil); err != nil {
		t.Fatal(err)
	}
	all := parseJourneys(t, tr.stop(t))
	// Acknowledgements may have waited in the queue when it went.
	lost := find(all, func(j *journey) bool { return j.Drop != nil && j.Packet.Flags == "S" })
	if lost == nil {
		t.Fatal("nothing was dropped")
	}
	if lost.Drop.Question != "M30" || !strings.Contains(lost.Drop.Because, "nobody listens") {
		t.Errorf("%s lost by %s/%s at %s: %s, explained as %s %q", lost.Packet.Flags, lost.Drop.Netns, lost.Drop.Dev, lost.Drop.At, lost.Drop.Reason, lost.Drop.Question, lost.Drop.Because)
	}
}

// TestCostIsTold: a trace that is asked tells what its hooks cost.
func TestCostIsTold(t *testing.T) {
	w := labUpFor(t)
	args := append([]string{"trace", "--cost"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "any", "10.0.0.1:5000")...)
	if _, err := w.Send(ctxBackground, scenarios.Traffic{Connections: 10}, nil); err != nil {
		t.Fatal(err)
	}
	tr.stop(t)
	runs := map[string]int{}
	for line := range strings.Lines(tr.stderr.String()) {
		if f := strings.Fields(line); len(f) == 4 {
			runs[f[0]], _ = strconv.Atoi(f[1])
		}
	}
	// A connection is ten packets, each through three namespaces.
	if runs["ingress"] < 100 || runs["egress"] < 100 {
		t.Errorf("runs %v; waymark printed\n%s", runs, tr.stderr.String())
	}
}
