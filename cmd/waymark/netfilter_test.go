// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"waymark/scenarios"
)

// chains are what netfilter decided about a packet, a line each: hook, table,
// chain, verdict and why.
func (j *journey) chains() []string {
	var lines []string
	for _, h := range j.Hops {
		if h.Group != "netfilter" {
			continue
		}
		d := h.Detail
		line := fmt.Sprintf("%v %v %v: %s", d["nf_hook"], d["table"], d["chain"], h.Verdict)
		if base, ok := d["base_chain"]; ok {
			line = fmt.Sprintf("%v %v %v > %v: %s", d["nf_hook"], d["table"], base, d["chain"], h.Verdict)
		}
		switch {
		case d["text"] != nil:
			line += fmt.Sprintf(" by %v", d["text"])
		case d["policy"] == true:
			line += " by policy"
		}
		lines = append(lines, line)
	}
	return lines
}

// traceSYNs traces while traffic is sent, and returns the first packet of the first
// connection to each destination.
func traceSYNs(t *testing.T, w *scenarios.World, traffic ...scenarios.Traffic) map[string]*journey {
	t.Helper()
	tr := start(t, append(append([]string{"trace", "--hooks", "device,queue,netfilter,drop,free", "-o", "json"}, netnsFlags(w)...), "tcp")...)
	for _, x := range traffic {
		x.Timeout = 300 * time.Millisecond
		if _, err := w.Send(ctxBackground, x, nil); err != nil {
			t.Fatal(err)
		}
	}
	all := parseJourneys(t, tr.stop(t))
	syns := map[string]*journey{}
	for i := range all {
		if j := &all[i]; j.Packet.Flags == "S" && syns[j.Packet.Dst] == nil {
			syns[j.Packet.Dst] = j
		}
	}
	return syns
}

func wantChains(t *testing.T, syns map[string]*journey, dst string, want ...string) {
	t.Helper()
	if syns[dst] == nil {
		t.Errorf("no journey of a SYN to %s", dst)
		return
	}
	if got := syns[dst].chains(); !slices.Equal(got, want) {
		t.Errorf("chains\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// TestTraceTellsWhatNetfilterDecides: which chains a connection's first packet
// passes in the Meridio lab, and which rule queues it.
func TestTraceTellsWhatNetfilterDecides(t *testing.T) {
	needFunctions(t)
	w := labUpFor(t)
	syns := traceSYNs(t, w, scenarios.Traffic{}, scenarios.Traffic{IPv6: true})
	for dst, queue := range map[string]string{
		"10.0.0.1":      "ip daddr @ipv4-vips counter queue to 0-3",
		"1000::1:a00:1": "ip6 daddr @ipv6-vips counter queue to 0-3",
	} {
		wantChains(t, syns, dst,
			"prerouting meridio-defrag pre-defrag: accept by policy",
			"prerouting meridio-defrag in: accept by ct state untracked accept",
			"prerouting meridio-nfqlb nfqlb: queue by "+queue,
			"postrouting meridio-metrics target-hits: accept by policy")
	}
}

// TestNetfilterDropsAreExplained: address translation in the cbr0 lab, and what a
// pod's output hook does to what it sends; then what a policy, a rule and a table
// of iptables-legacy drop in the node's forward hook.
func TestNetfilterDropsAreExplained(t *testing.T) {
	needFunctions(t)
	w := labUpWith(t, scenarios.Options{Lab: "cbr0"})
	const ext4, ext6 = "203.0.113.9", "2001:db8:113::9"
	internet4, internet6 := scenarios.Traffic{To: "internet"}, scenarios.Traffic{To: "internet", IPv6: true}

	remove := filterOutput(t, w.Namespace("p1"))
	syns := traceSYNs(t, w, internet4, internet6, scenarios.Traffic{To: "hairpin"})
	remove()
	const marks = "output local out: accept by ip daddr 203.0.113.9 meta mark set 0x77 accept"
	wantChains(t, syns, ext6, "output local out: drop by meta nfproto ipv6 counter drop")
	wantDrop(t, syns[ext6], "chain inet local out in wm-cbr0-p1 drops it, by rule 3: meta nfproto ipv6 counter drop")
	if j := syns[ext4]; j != nil && (len(j.Marks) != 2 || j.Marks[0].To != 0x77 || j.Marks[0].By != "netfilter" || j.Marks[1].How != "lost") {
		t.Errorf("marks %+v", j.Marks)
	}
	wantChains(t, syns, ext4, marks,
		"prerouting kube services: accept by policy",
		"forward kube forward: accept by policy",
		`postrouting kube postrouting: accept by oifname "eth0" ip daddr != 10.0.0.0/8 counter masquerade`)
	wantChains(t, syns, "10.8.0.11", "output local out: accept by policy",
		"prerouting kube services > pod-1-4: accept by counter dnat to 10.4.0.11:8080",
		"forward kube forward: accept by policy",
		"postrouting kube postrouting: accept by meta mark & 0x4000 != 0x0 meta mark set meta mark & 0xffffbfff counter masquerade")

	if err := w.Fault(ctxBackground, "forward-drop"); err != nil {
		t.Fatal(err)
	}
	syns = traceSYNs(t, w, internet4, internet6)
	if err := w.Clear(ctxBackground, "forward-drop"); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{ext4, ext6} {
		wantChains(t, syns, dst, "prerouting kube services: accept by policy", "forward kube forward: drop by policy")
		wantDrop(t, syns[dst], "no rule of chain inet kube forward in wm-cbr0-node takes it, and the chain's policy is drop")
	}

	// The rule drops both, but iptables comes before it, and is IPv4.
	handle := closePort(t, w.Namespace("node"))
	legacy := dropByIPTables(t, w.Namespace("node"))
	syns = traceSYNs(t, w, internet4, internet6)
	wantChains(t, syns, ext6, "prerouting kube services: accept by policy", "forward kube forward > closed: drop by tcp dport 8080 counter drop")
	wantDrop(t, syns[ext6], fmt.Sprintf("chain inet kube closed in wm-cbr0-node drops it, by rule %d: tcp dport 8080 counter drop", handle))
	if legacy {
		wantChains(t, syns, ext4, "prerouting kube services: accept by policy", "forward filter forward: drop")
		wantDrop(t, syns[ext4], "table filter of iptables in wm-cbr0-node drops it at forward")
	}
}

func wantDrop(t *testing.T, j *journey, because string) {
	t.Helper()
	switch {
	case j == nil:
	case j.Drop == nil:
		t.Errorf("%s is not dropped: %s", j.ID, j.Outcome)
	case j.Drop.Because != because:
		t.Errorf("because %q\nwant %q", j.Drop.Because, because)
	}
}

// filterOutput has a namespace mark what it sends to 203.0.113.9 and drop what it
// sends by IPv6, until remove is called.
func filterOutput(t *testing.T, namespace string) (remove func()) {
	t.Helper()
	c := nftIn(t, namespace)
	table := c.AddTable(&nftables.Table{Name: "local", Family: nftables.TableFamilyINet})
	out := c.AddChain(&nftables.Chain{
		Name: "out", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	family := func(f byte) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{f}}}
	}
	c.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: append(
		family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Register: 1, Data: []byte{203, 0, 113, 9}},
		&expr.Immediate{Register: 1, Data: []byte{0x77, 0, 0, 0}},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		&expr.Verdict{Kind: expr.VerdictAccept},
	)})
	c.AddRule(&nftables.Rule{Table: table, Chain: out, Exprs: append(
		family(unix.NFPROTO_IPV6), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop},
	)})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func nftIn(t *testing.T, namespace string) *nftables.Conn {
	t.Helper()
	ns, err := netns.GetFromName(namespace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// closePort adds a rule to the lab's forward chain that jumps to one that drops,
// and returns that one's handle.
func closePort(t *testing.T, namespace string) uint64 {
	t.Helper()
	c := nftIn(t, namespace)
	table := &nftables.Table{Name: "kube", Family: nftables.TableFamilyINet}
	closed := c.AddChain(&nftables.Chain{Name: "closed", Table: table})
	for _, port := range []byte{81, 0x90} { // 8065 and 8080
		c.AddRule(&nftables.Rule{Table: table, Chain: closed, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Register: 1, Data: []byte{0x1f, port}},
			&expr.Counter{},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "forward"}, Exprs: []expr.Any{
		&expr.Verdict{Kind: expr.VerdictJump, Chain: closed.Name},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	rules, err := c.GetRules(table, closed)
	if err != nil || len(rules) != 2 {
		t.Fatalf("%d rules: %v", len(rules), err)
	}
	return rules[1].Handle
}
