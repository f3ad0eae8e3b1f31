// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// maxDropRules bounds the rules that are told of a namespace; who drops by more
// of them has a question that no list answers.
const maxDropRules = 256

// nftFamilies are the families whose packets are explained, by NFPROTO_*.
var nftFamilies = map[uint8]string{unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6"}

// nftHooks are the names of enum nf_inet_hooks.
var nftHooks = []string{"prerouting", "input", "forward", "output", "postrouting"}

// readChains reads where the nftables of the namespace the calling thread is in
// can drop: the base chains that do by policy, and the chains with a rule that
// does. A kernel without nftables has none.
func readChains(ns Namespace) *decoder.Chains {
	all := &decoder.Chains{Netns: ns.Inode}
	chains, err := nftRequest(unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, unix.NFPROTO_UNSPEC, unix.NLM_F_DUMP)
	if err != nil {
		return all
	}
	for _, m := range chains {
		c, err := parseNFTChain(m)
		if err != nil || c.Family == "" {
			continue
		}
		if err := readDropRules(&c, m[0], all); err == nil && (c.Policy == "drop" || len(c.Drops) > 0) {
			all.Chains = append(all.Chains, c)
		}
	}
	return all
}

// parseNFTChain parses a NFT_MSG_NEWCHAIN message without its netlink header. Of
// a family that is not told the name is empty.
func parseNFTChain(m []byte) (c decoder.Chain, err error) {
	if len(m) < nfgenmsgLen {
		return c, errShortNFT
	}
	attrs, err := parseAttributes(m[nfgenmsgLen:])
	if err != nil {
		return c, err
	}
	c.Family = nftFamilies[m[0]]
	c.Table = unix.ByteSliceToString(attrs[unix.NFTA_CHAIN_TABLE])
	c.Name = unix.ByteSliceToString(attrs[unix.NFTA_CHAIN_NAME])
	hook, err := parseAttributes(attrs[unix.NFTA_CHAIN_HOOK])
	if err != nil {
		return c, err
	}
	if n, ok := hook.number(unix.NFTA_HOOK_HOOKNUM); ok && int(n) < len(nftHooks) {
		c.Hook = nftHooks[n]
		c.Policy = "accept"
		if policy, ok := attrs.number(unix.NFTA_CHAIN_POLICY); ok && policy == 0 {
			c.Policy = "drop"
		}
	}
	return c, nil
}

// readDropRules adds the rules of c that drop.
func readDropRules(c *decoder.Chain, family uint8, all *decoder.Chains) error {
	told := 0
	for i := range all.Chains {
		told += len(all.Chains[i].Drops)
	}
	rules, err := nftRequest(unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, family, unix.NLM_F_DUMP,
		nl.NewRtAttr(unix.NFTA_RULE_TABLE, nl.ZeroTerminated(c.Table)), nl.NewRtAttr(unix.NFTA_RULE_CHAIN, nl.ZeroTerminated(c.Name)))
	if err != nil {
		return fmt.Errorf("list the rules of %s %s: %w", c.Table, c.Name, err)
	}
	for _, m := range rules {
		r, err := parseNFTRule(m)
		if err != nil {
			return err
		}
		if r.Chain != c.Name || !slices.Contains(strings.Fields(r.Text), "drop") {
			continue
		}
		if told++; told > maxDropRules {
			all.More = true
			return nil
		}
		c.Drops = append(c.Drops, decoder.NetfilterRule{Handle: r.Handle, Text: r.Text, Table: c.Table, Chain: c.Name})
	}
	return nil
}
