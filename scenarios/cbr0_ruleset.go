// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The node's nftables rules: what kubenet and kube-proxy write with iptables, with
// the same decisions and the same mark.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// masqueradeMark marks a packet that must leave with the node's address, from the
// choice of a service's pod to postrouting (kube-proxy's --iptables-masquerade-bit).
const masqueradeMark = 0x4000

var (
	cbr0Table   = &nftables.Table{Name: "kube", Family: nftables.TableFamilyINet}
	cbr0Forward = "forward"
)

// cbr0Family is what the rules need to know of IPv4 or IPv6.
type cbr0Family struct {
	suffix       string // of chains
	proto        byte   // meta nfproto
	saddr, daddr uint32 // offsets in the IP header
	size         uint32 // of an address
	service, own netip.Addr
	cluster      []byte // first bytes of addresses that need no masquerade
	pods         []netip.Addr
}

func cbr0Families() []cbr0Family {
	v4 := cbr0Family{
		suffix: "4", proto: unix.NFPROTO_IPV4, saddr: 12, daddr: 16, size: 4,
		service: cbr0Service4, own: cbr0Own4, cluster: []byte{10}, // 10.0.0.0/8
	}
	v6 := cbr0Family{
		suffix: "6", proto: unix.NFPROTO_IPV6, saddr: 8, daddr: 24, size: 16,
		service: cbr0Service6, own: cbr0Own6, cluster: []byte{0xfd}, // fd00::/8
	}
	for _, pod := range cbr0Pods {
		v4.pods = append(v4.pods, pod.addr4.Addr())
		v6.pods = append(v6.pods, pod.addr6.Addr())
	}
	return []cbr0Family{v4, v6}
}

func (w *World) cbr0Ruleset() error {
	err := w.transact(cbr0Node, func(c *nftables.Conn) error {
		c.AddTable(cbr0Table)
		chain(c, cbr0Table, cbr0Forward, nftables.ChainTypeFilter, nftables.ChainHookForward, 0)
		services := chain(c, cbr0Table, "services", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
		post := chain(c, cbr0Table, "postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
		// The mark is taken off where it has done its work.
		c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: post, Exprs: concat(
			hasMark(masqueradeMark), changeMark(^uint32(masqueradeMark), 0), []expr.Any{&expr.Counter{}, &expr.Masq{}},
		)})
		for _, f := range cbr0Families() {
			if err := f.addServices(c, services); err != nil {
				return err
			}
			c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: post, Exprs: concat(
				f.is(), meta(expr.MetaKeyOIFNAME, expr.CmpOpEq, []byte("eth0\x00")),
				f.match(f.daddr, expr.CmpOpNeq, f.cluster),
				[]expr.Any{&expr.Counter{}, &expr.Masq{}},
			)})
		}
		return nil
	})
	if errors.Is(err, errNoExpression) {
		return fmt.Errorf("translate services' addresses: %w: it lacks one of nft_nat, nft_masq, nft_numgen and nft_chain_nat: %w", ErrUnsupported, err)
	}
	return wrap("translate services' addresses", err)
}

// addServices adds a chain per pod and the rules that choose one: for the service
// of all pods in turn, where kube-proxy rolls dice, so that tests can count.
func (f cbr0Family) addServices(c *nftables.Conn, services *nftables.Chain) error {
	var endpoints []nftables.SetElement
	for i, pod := range f.pods {
		ch := c.AddChain(&nftables.Chain{Name: fmt.Sprintf("%s-%s", cbr0Pods[i].name, f.suffix), Table: cbr0Table})
		// A pod that is its own server must not see its own address as the client's.
		c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: ch, Exprs: concat(
			f.match(f.saddr, expr.CmpOpEq, pod.AsSlice()), changeMark(^uint32(0), masqueradeMark),
		)})
		c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: ch, Exprs: []expr.Any{
			&expr.Counter{},
			&expr.Immediate{Register: 1, Data: pod.AsSlice()},
			&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, cbr0PodPort)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		}})
		endpoints = append(endpoints, nftables.SetElement{
			Key:         binaryutil.NativeEndian.PutUint32(uint32(i)),
			VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: ch.Name},
		})
	}
	turns := &nftables.Set{
		Table: cbr0Table, Name: "endpoints-" + f.suffix, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian,
	}
	if err := c.AddSet(turns, endpoints); err != nil {
		return err
	}
	for _, l4 := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: services, Exprs: concat(
			f.toService(f.service, l4),
			[]expr.Any{
				&expr.Numgen{Register: 1, Modulus: uint32(len(f.pods)), Type: unix.NFT_NG_INCREMENTAL},
				// Register 0 is the verdict.
				&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: turns.Name, SetID: turns.ID},
			},
		)})
		c.AddRule(&nftables.Rule{Table: cbr0Table, Chain: services, Exprs: concat(
			f.toService(f.own, l4),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: cbr0Pods[0].name + "-" + f.suffix}},
		)})
	}
	return nil
}

func (f cbr0Family) is() []expr.Any {
	return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f.proto})
}

// match compares the first bytes of the address at offset.
func (f cbr0Family) match(offset uint32, op expr.CmpOp, first []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(first))},
		&expr.Cmp{Op: op, Register: 1, Data: first},
	}
}

// toService matches packets of protocol l4 to a service's address and port.
func (f cbr0Family) toService(addr netip.Addr, l4 byte) []expr.Any {
	return concat(
		f.is(), meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{l4}),
		f.match(f.daddr, expr.CmpOpEq, addr.AsSlice()),
		[]expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, cbr0ServicePort)},
		},
	)
}

// hasMark matches packets with any bit of mark.
func hasMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(mark), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// changeMark keeps the bits of the mark that are in keep, and sets those in set.
func changeMark(keep, set uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		// (mark & ^set & keep) ^ set
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(keep &^ set), Xor: binaryutil.NativeEndian.PutUint32(set),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// setForwardPolicy sets what happens to forwarded packets that no rule decides.
func (w *World) setForwardPolicy(policy nftables.ChainPolicy) error {
	err := w.transact(cbr0Node, func(c *nftables.Conn) error {
		priority := nftables.ChainPriority(0)
		c.AddChain(&nftables.Chain{
			Name: cbr0Forward, Table: cbr0Table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: &priority, Policy: &policy,
		})
		return nil
	})
	return wrap("set the policy of the forward chain", err)
}
