// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// chainMessage is a NFT_MSG_NEWCHAIN message: struct nfgenmsg, then attributes.
func chainMessage(family byte, attrs ...[]byte) []byte {
	m := []byte{family, 0, 0, 0}
	for _, a := range append([][]byte{attr(unix.NFTA_CHAIN_TABLE, []byte("kube\x00")), attr(unix.NFTA_CHAIN_NAME, []byte("forward\x00"))}, attrs...) {
		m = append(m, a...)
	}
	return m
}

func hooked(n byte) []byte {
	return attr(unix.NFTA_CHAIN_HOOK|unix.NLA_F_NESTED, attr(unix.NFTA_HOOK_HOOKNUM, []byte{0, 0, 0, n}))
}

func TestParseNFTChain(t *testing.T) {
	policy := func(n byte) []byte { return attr(unix.NFTA_CHAIN_POLICY, []byte{0, 0, 0, n}) }
	for name, c := range map[string]struct {
		message []byte
		want    decoder.Chain
	}{
		"policy drop":   {chainMessage(unix.NFPROTO_INET, hooked(2), policy(0)), decoder.Chain{Family: "inet", Table: "kube", Name: "forward", Hook: "forward", Policy: "drop"}},
		"policy accept": {chainMessage(unix.NFPROTO_IPV4, hooked(1), policy(1)), decoder.Chain{Family: "ip", Table: "kube", Name: "forward", Hook: "input", Policy: "accept"}},
		"no base chain": {chainMessage(unix.NFPROTO_IPV6), decoder.Chain{Family: "ip6", Table: "kube", Name: "forward"}},
		"of a bridge":   {chainMessage(unix.NFPROTO_BRIDGE), decoder.Chain{Table: "kube", Name: "forward"}},
	} {
		if got, err := parseNFTChain(c.message); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	for _, cut := range [][]byte{nil, {1, 0, 0}, chainMessage(1, hooked(2))[:30]} {
		if got, err := parseNFTChain(cut); err == nil {
			t.Errorf("%x was read as %+v", cut, got)
		}
	}
}

func FuzzParseNFTChain(f *testing.F) {
	f.Add(chainMessage(unix.NFPROTO_INET, hooked(2)))
	f.Fuzz(func(t *testing.T, m []byte) { _, _ = parseNFTChain(m) })
}
