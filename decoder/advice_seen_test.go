// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	. "waymark/decoder"
)

// TestDropsExplainedByWhatWasSeen: of other packets, before.
func TestDropsExplainedByWhatWasSeen(t *testing.T) {
	const client, node = "198.51.100.2", "10.128.0.5"
	output := Chain{Family: "inet", Table: "filter", Name: "node-errors", Hook: "output", Policy: "accept"}
	output.Drops = []NetfilterRule{dropRule(3, "meta nfproto ipv4 icmp type destination-unreachable counter drop"), dropRule(4, "tcp dport 25 drop")}
	input := Chain{Family: "inet", Table: "filter", Name: "node-icmp", Hook: "input", Policy: "accept"}
	input.Drops = []NetfilterRule{dropRule(5, "icmp type echo-request counter drop")}

	answer := func(s *stream) *packet { return s.tcp(2, 0, node, 4240, client, 40000, synAck) }
	echo := func(s *stream, after time.Duration) {
		s.packet(1, 0, client, node, 1).echo(8, 5, 1).in(nsNode, uplink, after).drop(nsNode, uplink, us, filtered, inNFT)
	}
	message := func(s *stream, to string, at uint64) {
		p := s.packet(2, 0, node, to, 1)
		p.rec.IcmpType, p.rec.IcmpCode = 3, 4
		p.drop(nsNode, bridgeCBR0, 0, filtered, at)
	}
	big := func(s *stream, after time.Duration) {
		p := s.tcp(1, 0, podAddr, 40000, client, 8080, ack)
		p.app = make([]byte, 1420)
		p.in(nsNode, portPod, after).drop(nsNode, bridgeCBR0, us, tooBig, inForward)
	}
	for name, c := range map[string]struct {
		packets           func(*stream)
		question, because string
	}{
		"TCP passes": {func(s *stream) {
			answer(s).out(nsNode, uplink, 0)
			echo(s, time.Second)
		}, "C6", "chain inet filter node-icmp in node drops ICMP to 10.128.0.5, by rule 5: icmp type echo-request counter drop, while TCP to the same address passes"},
		"TCP passed long ago": {func(s *stream) {
			answer(s).out(nsNode, uplink, 0)
			echo(s, 3*time.Minute)
		}, "C2", ""},
		"TCP passes elsewhere": {func(s *stream) {
			answer(s).out(nsOther, uplink, 0)
			echo(s, time.Second)
		}, "C2", ""},
		"no TCP seen": {func(s *stream) { echo(s, 0) }, "C2", ""},
		"message filtered": {func(s *stream) {
			message(s, podAddr, inNFT)
			big(s, us)
		}, "G7", "it has 1460 bytes, more than node/eth0 takes (MTU 1400), and 10.4.0.12 is not told: chain inet filter node-errors in node drops the ICMP message about it, by rule 3"},
		"message filtered, by whom is not known": {func(s *stream) {
			message(s, podAddr, inHook)
			big(s, us)
		}, "G7", "and 10.4.0.12 is not told: netfilter in node drops"},
		"another's message filtered": {func(s *stream) {
			message(s, "10.4.0.13", inNFT)
			big(s, us)
		}, "G7", "(MTU 1400); node tells 10.4.0.12 so by ICMP"},
		"message filtered long ago": {func(s *stream) {
			message(s, podAddr, inNFT)
			big(s, 2*time.Second)
		}, "G7", "node tells 10.4.0.12 so by ICMP"},
		"message seen": {func(s *stream) { big(s, 0) }, "G7", "node tells 10.4.0.12 so by ICMP"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &stream{t: t}
			s.contexts(nodeContexts()...)
			s.contexts(
				&Context{Device: &Device{Netns: nsNode, Index: uplink, Name: "eth0", Kind: "veth", Up: true, MTU: 1400, Addrs: []netip.Prefix{netip.MustParsePrefix("10.128.0.5/24")}}},
				chains(output, input))
			c.packets(s)
			js := s.run(Options{})
			if len(js) == 0 || js[len(js)-1].Drop == nil {
				t.Fatalf("%d journeys, of which the last has no drop", len(js))
			}
			d := js[len(js)-1].Drop
			if d.Question != c.question || !strings.Contains(d.Because, c.because) || strings.ContainsAny(d.Because+d.Advice, "{}") {
				t.Errorf("explained as %s: %q, advice %q; want %s with %q", d.Question, d.Because, d.Advice, c.question, c.because)
			}
		})
	}
}
