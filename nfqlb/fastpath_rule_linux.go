// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/google/nftables/xt"
)

// Packets with a mark pass the queue by: a rule in front of the one that queues
// them to the balancer accepts them, as the balancer's verdict would. Without
// the fast path no packet comes with a mark, and the rule does nothing.

// passUserData marks the rule as ours: a comment that nft shows.
var passUserData = userdata.AppendString(nil, userdata.TypeComment, "waymark: marked by the fast path")

func isPass(r *nftables.Rule) bool { return bytes.Equal(r.UserData, passUserData) }

// queueRule is a rule that queues to the balancer, and the one of ours before it
// if there is one.
type queueRule struct {
	rule, pass *nftables.Rule
}

// queueRules finds the rules of chains before routing that queue to the
// balancer's queues.
func queueRules(c *nftables.Conn, first, last uint16) ([]queueRule, error) {
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	var found []queueRule
	for _, chain := range chains {
		if !beforeRouting(chain) {
			continue
		}
		rules, err := c.GetRules(chain.Table, chain)
		if err != nil {
			return nil, fmt.Errorf("nftables chain %s %s: %w", chain.Table.Name, chain.Name, err)
		}
		var pass *nftables.Rule
		for _, r := range rules {
			if isPass(r) {
				pass = r
			}
			if queuesTo(r, first, last) {
				r.Chain, r.Table = chain, chain.Table
				found = append(found, queueRule{r, pass})
				break // what follows it sees no marked packet either way
			}
		}
	}
	return found, nil
}

// beforeRouting tells whether IP packets pass the chain before they are routed.
func beforeRouting(c *nftables.Chain) bool {
	switch c.Table.Family {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
		return c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookPrerouting
	}
	return false
}

// queuesTo tells whether a rule queues to one of the queues, by nftables' own
// expression or iptables' target.
func queuesTo(r *nftables.Rule, first, last uint16) bool {
	overlap := func(from, n uint16) bool { return from <= last && int(from)+int(max(n, 1)) > int(first) }
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Queue:
			if overlap(e.Num, e.Total) {
				return true
			}
		case *expr.Target:
			// struct xt_NFQ_info and its successors: queue, from revision 1 on
			// the number of queues.
			if info, ok := e.Info.(*xt.Unknown); ok && e.Name == "NFQUEUE" && len(*info) >= 4 {
				n := uint16(1)
				if e.Rev > 0 {
					n = binary.NativeEndian.Uint16((*info)[2:])
				}
				if overlap(binary.NativeEndian.Uint16(*info), n) {
					return true
				}
			}
		}
	}
	return false
}

var errNoQueueRule = errors.New("no nftables rule queues to the balancer; let packets with a mark pass such a rule of iptables with -m mark --mark 0")

// passMarked puts our rule before each rule that queues to the balancer, where it
// is not there yet.
func (f *FastPath) passMarked() error {
	c, err := nftables.New(nftables.WithNetNSFd(f.config.NetNS))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	rules, err := queueRules(c, f.config.FirstQueue, f.config.LastQueue)
	if err != nil {
		return err
	}
	if len(rules) == 0 {
		return errNoQueueRule
	}
	for _, r := range rules {
		if r.pass == nil {
			c.InsertRule(&nftables.Rule{
				Table: r.rule.Table, Chain: r.rule.Chain, Position: r.rule.Handle,
				UserData: passUserData,
				Exprs: []expr.Any{
					&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
					&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
					&expr.Verdict{Kind: expr.VerdictAccept},
				},
			})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables rule that lets marked packets pass the queue: %w", err)
	}
	return nil
}

// removePass takes our rules out again.
func (f *FastPath) removePass() error {
	c, err := nftables.New(nftables.WithNetNSFd(f.config.NetNS))
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	rules, err := queueRules(c, f.config.FirstQueue, f.config.LastQueue)
	if err != nil {
		return err
	}
	for _, r := range rules {
		if r.pass != nil {
			r.pass.Chain, r.pass.Table = r.rule.Chain, r.rule.Table
			if err := c.DelRule(r.pass); err != nil {
				return err
			}
		}
	}
	return c.Flush()
}
