// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"waymark/scenarios"
)

// nodeWay is a journey through the cbr0 lab in words, with what NAT and bridges
// do.
func (j *journey) nodeWay() string {
	var words []string
	for _, h := range j.Hops {
		place := strings.TrimPrefix(h.Netns, "wm-cbr0-") + "/" + h.Dev
		d := h.Detail
		switch h.Group + "/" + h.Hook {
		case "device/ingress":
			words = append(words, place+" in")
		case "device/egress":
			words = append(words, place+" out")
		case "nat/conntrack":
			words = append(words, fmt.Sprintf("%v %v", d["state"], d["direction"]))
		case "nat/manip":
			word := fmt.Sprint(d["kind"])
			switch {
			case d["inferred"] == true:
				word = fmt.Sprint(d["manip"], " changed")
			case d["direction"] == "reply":
				word = "un-" + word
			}
			words = append(words, word)
		case "bridge/forward":
			words = append(words, fmt.Sprintf("bridge → %v", d["out"]))
		case "bridge/up", "bridge/flood":
			words = append(words, "bridge "+h.Hook)
		case "route/fib":
			words = append(words, "routed")
		}
	}
	return strings.Join(append(words, j.Outcome), ", ")
}

// detour is the way of a bridged packet with a new destination through the
// bridge's own device, as long as the kernel is not sure of the pod's hardware
// address (br_nf_pre_routing_finish_bridge).
const detour = "routed, node/cbr0 out, "

// natCase is a way through the cbr0 lab and what waymark has to tell of it.
type natCase struct {
	traffic     scenarios.Traffic
	there, back string    // %[1]s is the number of the server's pod
	itself      [2]string // the same, where p1 is the server
}

// TestTraceTellsWhatNATDoes: for each way through the node, with br_netfilter
// and without, the addresses that waymark names are those that the server saw,
// and answers are followed from where they begin, although the filter names
// other addresses.
func TestTraceTellsWhatNATDoes(t *testing.T) {
	const (
		filter   = "tcp and (host 10.8.0.10 or host 10.8.0.11 or host 203.0.113.9 or host fd00:10:4::12)"
		toPod    = "p1/eth0 out, node/veth0001 in, new original, "
		fromPod  = "p%[1]s/eth0 out, node/veth000%[1]s in, established reply, "
		toExt    = "node/eth0 out, ext/eth0 in, delivered"
		fromExt  = "ext/eth0 out, node/eth0 in, established reply, un-masquerade, routed, node/cbr0 out, "
		downToP1 = "bridge → veth0001, node/veth0001 out, p1/eth0 in, delivered"
	)
	hairpin := [2]string{
		toPod + "dnat, bridge → veth0001, masquerade, node/veth0001 out, p1/eth0 in, delivered",
		"p1/eth0 out, node/veth0001 in, established reply, un-masquerade, bridge → veth0001, un-dnat, node/veth0001 out, p1/eth0 in, delivered",
	}
	for name, c := range map[string]struct {
		options scenarios.Options
		cases   []natCase
	}{
		"br_netfilter on": {scenarios.Options{Lab: "cbr0"}, []natCase{
			{
				traffic: scenarios.Traffic{To: "service"},
				there:   toPod + "dnat, bridge → veth000%[1]s, node/veth000%[1]s out, p%[1]s/eth0 in, delivered",
				back:    fromPod + "bridge → veth0001, un-dnat, node/veth0001 out, p1/eth0 in, delivered",
				itself:  hairpin,
			},
			{traffic: scenarios.Traffic{To: "hairpin"}, itself: hairpin},
			{
				traffic: scenarios.Traffic{To: "pod", IPv6: true},
				there:   toPod + "bridge → veth0002, node/veth0002 out, p2/eth0 in, delivered",
				back:    fromPod + downToP1,
			},
			{
				traffic: scenarios.Traffic{To: "internet"},
				there:   toPod + "bridge up, node/cbr0 in, routed, masquerade, " + toExt,
				back:    fromExt + downToP1,
			},
		}},
		"br_netfilter off": {scenarios.Options{Lab: "cbr0", NoBridgeNetfilter: true}, []natCase{
			{
				traffic: scenarios.Traffic{To: "hairpin"},
				itself: [2]string{
					"p1/eth0 out, node/veth0001 in, bridge up, node/cbr0 in, new original, dnat, routed, masquerade, node/cbr0 out, " + downToP1,
					"p1/eth0 out, node/veth0001 in, bridge up, node/cbr0 in, established reply, un-masquerade, routed, un-dnat, node/cbr0 out, " + downToP1,
				},
			},
			{
				traffic: scenarios.Traffic{To: "pod", IPv6: true},
				there:   "p1/eth0 out, node/veth0001 in, bridge → veth0002, node/veth0002 out, p2/eth0 in, delivered",
				back:    "p2/eth0 out, node/veth0002 in, " + downToP1,
			},
			{
				traffic: scenarios.Traffic{To: "internet"},
				there:   "p1/eth0 out, node/veth0001 in, bridge up, node/cbr0 in, new original, routed, masquerade, " + toExt,
				back:    fromExt + downToP1,
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := labUpWith(t, c.options)
			if !showsFunctions() {
				t.Log("this kernel does not show NAT and bridges: doctor says so")
				checkInferredNAT(t, w)
				return
			}
			checkNAT(t, w, filter, c.cases)
		})
	}
}

// checkNAT traces connections of all cases at once.
func checkNAT(t *testing.T, w *scenarios.World, filter string, cases []natCase) {
	t.Helper()
	type answer struct {
		natCase
		scenarios.Exchange
		packets int
	}
	answers := map[string]*answer{} // by the ends of the connection
	tr := start(t, append(append([]string{"trace", "--hooks", "device,nat,bridge,drop,free", "-o", "json"}, netnsFlags(w)...), filter)...)
	connections, concurrency := 1000, 1000
	if testing.Short() {
		connections, concurrency = 6, 1
	}
	for _, c := range cases {
		c.traffic.Connections, c.traffic.Concurrency, c.traffic.Timeout = connections, concurrency, time.Minute
		sum, err := w.Send(ctxBackground, c.traffic, func(x scenarios.Exchange) {
			answers[x.Local.String()+" "+x.Remote.String()] = &answer{natCase: c, Exchange: x}
		})
		if err != nil || sum.Failed > 0 {
			t.Fatalf("%+v: %v", sum, err)
		}
	}
	awaitClosed(t, w)
	all := parseJourneys(t, tr.stop(t))
	k, routes, torn, why := askKernel(t), 0, 0, map[string]int{}
	for _, j := range all {
		routes += k.check(&j)
		if !j.Complete {
			torn++
			if len(j.Notes) == 0 {
				t.Errorf("%s is not complete and does not say why: %s", j.ID, j.nodeWay())
			}
			for _, note := range j.Notes {
				why[note]++
			}
		}
		if j.Packet.Flags != "S" && j.Packet.Flags != "S." {
			continue
		}
		_, ends, _ := strings.Cut(j.Flow, " ")
		a := answers[ends]
		if a == nil {
			t.Errorf("%s of flow %s is nobody's: %s", j.ID, j.Flow, j.nodeWay())
			continue
		}
		a.packets++
		server := a.Reply.Target[len(a.Reply.Target)-1:]
		ways := [2]string{a.there, a.back}
		if server == "1" {
			ways = a.itself
		}
		want := ways[0]
		if j.Reply {
			want = ways[1]
		}
		if strings.Contains(want, "%[1]s") {
			want = fmt.Sprintf(want, server)
		}
		got := j.nodeWay()
		if !strings.Contains(want, "node/cbr0") {
			got = strings.Replace(got, detour, "", 1)
		}
		if got != want {
			t.Errorf("%s, flow %s reply %v, answered by %s, went\n  %s\nwant\n  %s", j.ID, j.Flow, j.Reply, a.Reply.Target, got, want)
		}
		j.checkEnds(t, a.Exchange)
	}
	t.Logf("%d connections, %d routes; %d journeys, %d torn", len(answers), routes, len(all), torn)
	if routes == 0 {
		t.Error("no route was named")
	}
	if torn*1000 > len(all) {
		t.Errorf("%d of %d journeys are torn: %v", torn, len(all), why)
	}
	for ends, a := range answers {
		if a.packets < 2 { // more if they were sent again
			t.Errorf("%d packets opened and accepted the connection %s", a.packets, ends)
		}
	}
}

// checkEnds compares what NAT made of a SYN with whom the server saw.
func (j *journey) checkEnds(t *testing.T, x scenarios.Exchange) {
	t.Helper()
	if j.Reply {
		return
	}
	for _, h := range j.Hops {
		if h.Hook != "manip" {
			continue
		}
		from, to := h.Detail["from"], h.Detail["to"]
		switch h.Detail["kind"] {
		case "dnat":
			n := x.Reply.Target[len(x.Reply.Target)-1:]
			if from != x.Remote.String() || to != "10.4.0.1"+n+":8080" {
				t.Errorf("%s to %s answered by %s: dnat %v → %v", x.Local, x.Remote, x.Reply.Target, from, to)
			}
		case "masquerade":
			if from != x.Local.String() || to != x.Reply.Peer.String() {
				t.Errorf("%s seen as %s: masquerade %v → %v", x.Local, x.Reply.Peer, from, to)
			}
		}
	}
}

// checkInferredNAT is for kernels that do not show NAT: the change is seen.
func checkInferredNAT(t *testing.T, w *scenarios.World) {
	t.Helper()
	args := append([]string{"trace", "--hooks", "device,nat,bridge,drop,free", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, "tcp", "10.4.0.11", "203.0.113.9:8080")...)
	var x scenarios.Exchange
	if _, err := w.Send(ctxBackground, scenarios.Traffic{To: "internet"}, func(e scenarios.Exchange) { x = e }); err != nil {
		t.Fatal(err)
	}
	all := parseJourneys(t, tr.stop(t))
	syn := find(all, func(j *journey) bool { return j.Packet.Flags == "S" })
	if syn == nil {
		t.Fatal("no journey of the SYN")
	}
	want := "p1/eth0 out, node/veth0001 in, node/cbr0 in, routed, src changed, node/eth0 out, ext/eth0 in, delivered"
	if got := syn.nodeWay(); got != want {
		t.Errorf("the SYN went\n  %s\nwant\n  %s", got, want)
	}
	for _, h := range syn.Hops {
		if d := h.Detail; h.Hook == "manip" && (d["inferred"] != true || d["from"] != x.Local.String() || d["to"] != x.Reply.Peer.String()) {
			t.Errorf("%s seen as %s: %v", x.Local, x.Reply.Peer, d)
		}
	}
}
