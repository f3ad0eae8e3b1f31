// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// A realserver's table nat, with the chains Ravel's realserver writes
// (pkg/iptables/iptables.go) and kube-proxy's chain that masquerades what they
// mark. Ravel writes them with iptables; these are the same in nftables.

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var ipvsNAT = &nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv4}

// addRealserverRules writes the table, in place of the one that may be there.
func (w *World) addRealserverRules(r ipvsRealserver) error {
	err := w.transact(r.node, func(c *nftables.Conn) error {
		replaceNAT(c)
		realserverNAT(c, r)
		return nil
	})
	if errors.Is(err, errNoExpression) {
		err = fmt.Errorf("%w: it lacks a part of nftables' NAT (nft_chain_nat, nft_nat, nft_masq): %w", ErrUnsupported, err)
	}
	return wrap("translate addresses in "+r.node, err)
}

// flushRealserverRules leaves the table empty.
func (w *World) flushRealserverRules(r ipvsRealserver) error {
	return wrap("flush table nat of "+r.node, w.transact(r.node, func(c *nftables.Conn) error {
		replaceNAT(c)
		return nil
	}))
}

// replaceNAT makes an empty table. Adding what exists is no error, deleting what
// does not is one.
func replaceNAT(c *nftables.Conn) {
	c.AddTable(ipvsNAT)
	c.DelTable(ipvsNAT)
	c.AddTable(ipvsNAT)
}

// realserverNAT leads the services that a director sends to r to r's pod, and
// has the pod answer to r.
func realserverNAT(c *nftables.Conn, r ipvsRealserver) {
	add := func(ch *nftables.Chain, match, action []expr.Any) {
		c.AddRule(&nftables.Rule{Table: ipvsNAT, Chain: ch, Exprs: concat(match, []expr.Any{&expr.Counter{}}, action)})
	}
	named := func(name string) *nftables.Chain { return c.AddChain(&nftables.Chain{Name: name, Table: ipvsNAT}) }

	in := chain(c, ipvsNAT, "PREROUTING", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
	out := chain(c, ipvsNAT, "POSTROUTING", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	ravel, masq, kube := named("RAVEL"), named("RAVEL-MASQ"), named("KUBE-POSTROUTING")
	add(in, nil, jump(ravel))
	add(masq, nil, changeMark(^uint32(0), masqueradeMark))
	add(out, nil, jump(kube))
	add(kube, hasMark(masqueradeMark), []expr.Any{&expr.Masq{}})

	for _, s := range ipvsTable() {
		if s.method == ipvsMasq || s.at.Addr().Is6() {
			continue // the realserver's own server takes it
		}
		if !slices.ContainsFunc(s.dests, func(d netip.AddrPort) bool { return d.Addr() == r.addr4 }) {
			continue // it has no pod of that
		}
		hash := chainHash(s.String())
		svc, sep := named("RAVEL-SVC-"+hash), named("RAVEL-SEP-"+hash)
		match := concat(
			payload(expr.PayloadBaseNetworkHeader, 16, s.at.Addr().AsSlice()), // ip daddr
			meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{byte(s.proto)}),
			payload(expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, s.at.Port())),
		)
		add(ravel, match, jump(masq))
		add(ravel, match, jump(svc))
		add(svc, nil, jump(sep))
		add(sep, nil, []expr.Any{
			&expr.Immediate{Register: 1, Data: r.pod4.AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, ipvsServerPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		})
	}
}

// chainHash is how Ravel, like kube-proxy, makes chain names of service names.
func chainHash(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

func jump(to *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: to.Name}}
}

// payload compares what is at an offset of a header with data.
func payload(base expr.PayloadBase, offset uint32, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(data))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}
