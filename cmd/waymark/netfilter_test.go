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

// traceSYN traces one connection and returns its first packet.
func traceSYN(t *testing.T, w *scenarios.World, traffic scenarios.Traffic, filter ...string) *journey {
	t.Helper()
	args := append([]string{"trace", "-o", "json"}, netnsFlags(w)...)
	tr := start(t, append(args, filter...)...)
	traffic.Timeout = 300 * time.Millisecond
	if _, err := w.Send(ctxBackground, traffic, nil); err != nil {
		t.Fatal(err)
	}
	all := parseJourneys(t, tr.stop(t))
	syn := find(all, func(j *journey) bool { return j.Packet.Flags == "S" && !j.Reply })
	if syn == nil {
		dump(t, all)
		t.Fatal("no journey of the SYN")
	}
	return syn
}

// TestTraceTellsWhatNetfilterDecides: which chains a connection's first packet
// passes, and which rule decided about it.
func TestTraceTellsWhatNetfilterDecides(t *testing.T) {
	type way struct {
		to     string
		v6     bool
		filter string
		want   []string
	}
	for lab, ways := range map[string][]way{
		"meridio": {
			{"", false, "tcp any 10.0.0.1:5000", []string{
				"prerouting meridio-defrag pre-defrag: accept by policy",
				"prerouting meridio-defrag in: accept by ct state untracked accept",
				"prerouting meridio-nfqlb nfqlb: queue by ip daddr @ipv4-vips counter queue to 0-3",
				"postrouting meridio-metrics target-hits: accept by policy",
			}},
			{"", true, "tcp any [1000::1:a00:1]:5000", []string{
				"prerouting meridio-defrag pre-defrag: accept by policy",
				"prerouting meridio-defrag in: accept by ct state untracked accept",
				"prerouting meridio-nfqlb nfqlb: queue by ip6 daddr @ipv6-vips counter queue to 0-3",
				"postrouting meridio-metrics target-hits: accept by policy",
			}},
		},
		"cbr0": {
			{"internet", false, "tcp any 203.0.113.9:8080", []string{
				"prerouting kube services: accept by policy",
				"forward kube forward: accept by policy",
				`postrouting kube postrouting: accept by oifname "eth0" ip daddr != 10.0.0.0/8 counter masquerade`,
			}},
			{"hairpin", false, "tcp any 10.8.0.11:80", []string{
				"prerouting kube services > pod-1-4: accept by counter dnat to 10.4.0.11:8080",
				"forward kube forward: accept by policy",
				"postrouting kube postrouting: accept by meta mark & 0x4000 != 0x0 meta mark set meta mark & 0xffffbfff counter masquerade",
			}},
		},
		"ipvs": {
			{"direct", false, "tcp any 10.54.213.148:8012", []string{
				"prerouting nat PREROUTING > RAVEL-SEP-2XTA5SGSZ54GODVP: accept by counter dnat to 192.168.10.2:8080",
				"postrouting nat POSTROUTING > KUBE-POSTROUTING: accept by meta mark & 0x4000 != 0x0 counter masquerade",
			}},
		},
	} {
		t.Run(lab, func(t *testing.T) {
			w := labUpWith(t, scenarios.Options{Lab: lab})
			if !hookAvailable(t, "nft_chain") {
				t.Skip("SKIPPED: this kernel does not show chains: doctor says so")
			}
			for _, tt := range ways {
				syn := traceSYN(t, w, scenarios.Traffic{To: tt.to, IPv6: tt.v6}, strings.Fields(tt.filter)...)
				if got := syn.chains(); !slices.Equal(got, tt.want) {
					t.Errorf("chains\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
				}
			}
		})
	}
}

// TestNetfilterDropsAreExplained: a policy and a rule drop, in the lab's forward
// chain.
func TestNetfilterDropsAreExplained(t *testing.T) {
	w := labUpWith(t, scenarios.Options{Lab: "cbr0"})
	if !hookAvailable(t, "nft_chain") {
		t.Skip("SKIPPED: this kernel does not show chains: doctor says so")
	}
	toInternet := map[bool][]string{false: {"tcp", "any", "203.0.113.9:8080"}, true: {"tcp", "any", "[2001:db8:113::9]:8080"}}
	for _, v6 := range []bool{false, true} {
		if err := w.Fault(ctxBackground, "forward-drop"); err != nil {
			t.Fatal(err)
		}
		syn := traceSYN(t, w, scenarios.Traffic{To: "internet", IPv6: v6}, toInternet[v6]...)
		if err := w.Clear(ctxBackground, "forward-drop"); err != nil {
			t.Fatal(err)
		}
		wantDrop(t, syn, "no rule of chain inet kube forward in wm-cbr0-node takes it, and the chain's policy is drop")
		if c := syn.chains(); len(c) == 0 || c[len(c)-1] != "forward kube forward: drop by policy" {
			t.Errorf("chains %q", c)
		}
	}
	handle := closePort(t, w.Namespace("node"))
	syn := traceSYN(t, w, scenarios.Traffic{To: "internet"}, toInternet[false]...)
	wantDrop(t, syn, fmt.Sprintf("chain inet kube closed in wm-cbr0-node drops it, by rule %d: tcp dport 8080 counter drop", handle))
	if c := syn.chains(); len(c) == 0 || c[len(c)-1] != "forward kube forward > closed: drop by tcp dport 8080 counter drop" {
		t.Errorf("chains %q", c)
	}
}

func wantDrop(t *testing.T, j *journey, because string) {
	t.Helper()
	switch {
	case j.Drop == nil:
		t.Errorf("%s is not dropped: %s", j.ID, j.Outcome)
	case j.Drop.Because != because:
		t.Errorf("because %q\nwant %q", j.Drop.Because, because)
	}
}

// closePort adds a rule to the lab's forward chain that jumps to one that drops,
// and returns that one's handle.
func closePort(t *testing.T, namespace string) uint64 {
	t.Helper()
	ns, err := netns.GetFromName(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns)))
	if err != nil {
		t.Fatal(err)
	}
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
