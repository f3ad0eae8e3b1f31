// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Faults that health checks find, as Cilium's do: echo requests and TCP port 4240,
// to the node and to an endpoint on it.

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// cbr0Filter is the table of somebody who filters too much.
var cbr0Filter = &nftables.Table{Name: "filter", Family: nftables.TableFamilyINet}

// filterRule is what one of its chains drops.
type filterRule struct {
	chain string
	hook  *nftables.ChainHook
	drops [][]expr.Any
}

func cbr0HealthFaults() []Fault {
	input, forward := nftables.ChainHookInput, nftables.ChainHookForward
	node := cbr0.namespace(cbr0Node)
	fault := func(name, question, brief, dev string, r filterRule, expect Expect, traffic ...string) Fault {
		expect.Outcome, expect.Packet, expect.Netns, expect.Dev = "dropped", "request", node, dev
		expect.Drops = slices.Concat(measured(4, "NETFILTER_DROP", "nft_do_chain"), measured(6, "NETFILTER_DROP", "nft_do_chain"))
		return Fault{
			Name: name, Question: question, Brief: brief, Traffic: traffic, Expect: expect,
			break_: func(_ context.Context, w *World) error { return w.addFilter(r) },
			fix:    func(_ context.Context, w *World) error { return w.removeFilter(r) },
		}
	}
	noICMP := fault("icmp-filtered", "C2", "the node drops echo requests to itself; TCP passes", "eth0",
		filterRule{"node-icmp", input, dropEcho()}, Expect{
			Advice:  "the node drops echo requests: accept them; where TCP to it was seen to pass, only ICMP is filtered (C6)",
			Because: "chain inet filter node-icmp in wm-cbr0-node drops ICMP to the node itself",
			Fix:     "accept echo requests",
		}, "--to", "agent", "--ping", "-c", "4")
	noICMP.Also = "C6" // where TCP was seen to pass
	return []Fault{
		noICMP,
		fault("agent-filtered", "C3", "the node drops TCP to its health agent's port 4240", "eth0",
			filterRule{"node-agent", input, dropPort(cbr0HealthPort)}, Expect{
				Advice:  "the node drops TCP port 4240: accept it from the other nodes",
				Because: "the port of the node's agent",
				Fix:     "accept TCP port 4240 from the other nodes",
			}, "--to", "agent", "-c", "4"),
		fault("endpoint-icmp-filtered", "C4", "the node drops echo requests to its pods", "eth0",
			filterRule{"pods-icmp", forward, dropEcho()}, Expect{
				Advice:  "the packet reaches the host and is dropped inside it: accept echo requests in its forward chain",
				Because: "it is lost inside the host, not between the hosts",
				Fix:     "accept echo requests",
			}, "--to", "endpoint", "--ping", "-c", "4"),
		fault("endpoint-filtered", "C5", "the node drops TCP port 4240 to its pods", "eth0",
			filterRule{"pods-health", forward, dropPort(cbr0HealthPort)}, Expect{
				Advice:  "the packet reaches the host and is dropped inside it: accept TCP port 4240 in its forward chain",
				Because: "the port of a health endpoint",
				Fix:     "accept TCP port 4240",
			}, "--to", "endpoint", "-c", "4"),
	}
}

// dropEcho are rules that drop echo requests (RFC 792, RFC 4443).
func dropEcho() (rules [][]expr.Any) {
	for _, r := range []struct{ family, proto, request byte }{
		{unix.NFPROTO_IPV4, unix.IPPROTO_ICMP, 8}, {unix.NFPROTO_IPV6, unix.IPPROTO_ICMPV6, 128},
	} {
		rules = append(rules, concat(
			meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{r.family}),
			meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{r.proto}),
			payload(expr.PayloadBaseTransportHeader, 0, []byte{r.request}),
		))
	}
	return rules
}

// dropPort is a rule that drops what goes to a TCP port.
func dropPort(port uint16) [][]expr.Any {
	return [][]expr.Any{concat(
		meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_TCP}),
		payload(expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, port)),
	)}
}

// addFilter makes the chain of r and its rules, in place of what may be there.
func (w *World) addFilter(r filterRule) error {
	err := w.transact(cbr0Node, func(c *nftables.Conn) error {
		c.AddTable(cbr0Filter)
		ch := chain(c, cbr0Filter, r.chain, nftables.ChainTypeFilter, r.hook, 10)
		c.FlushChain(ch)
		for _, match := range r.drops {
			c.AddRule(&nftables.Rule{Table: cbr0Filter, Chain: ch, Exprs: concat(match, []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})})
		}
		return nil
	})
	if errors.Is(err, errNoExpression) {
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return wrap("filter in "+cbr0Node, err)
}

// removeFilter removes the chain of r; it may be gone already.
func (w *World) removeFilter(r filterRule) error {
	return wrap("remove the filter of "+cbr0Node, w.transact(cbr0Node, func(c *nftables.Conn) error {
		c.AddTable(cbr0Filter)
		ch := chain(c, cbr0Filter, r.chain, nftables.ChainTypeFilter, r.hook, 10)
		c.FlushChain(ch)
		c.DelChain(ch)
		return nil
	}))
}
