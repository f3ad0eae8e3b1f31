// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The load balancer's nftables rules, table by table as Meridio writes them
// (pkg/loadbalancer/nfqlb/netfilter.go, stream/defrag.go, target/metrics.go).
//
// What a kernel has of nftables is found out by trying: a table is one
// transaction, so one that is refused leaves nothing behind.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// The balancer's queues, 0 to 3.
const (
	meridioQueue  = 0
	meridioQueues = 4
)

// Hook priorities that have no name in nftables.
const (
	priorityEarly = -500 // before the kernel's defragmentation at -400
)

// errNoExpression says that the kernel lacks something a rule is made of.
var errNoExpression = errors.New("not in this kernel")

// transact sends one transaction to the nftables of a node.
func (w *World) transact(node string, fill func(*nftables.Conn) error) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(w.nodes[node].ns.Fd())))
	if err != nil {
		return err
	}
	if err := fill(c); err != nil {
		return err
	}
	err = c.Flush()
	// An unknown expression, chain type or table answers ENOENT, an unknown
	// set or family EOPNOTSUPP (net/netfilter/nf_tables_api.c).
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %w", errNoExpression, err)
	}
	return err
}

func (w *World) meridioRuleset() error {
	err := w.transact(meridioLB, meridioQueueTable(queueExpression()))
	if errors.Is(err, errNoExpression) {
		w.note("nftables queue: %v; queueing with the xtables target NFQUEUE instead", errNoExpression)
		err = w.transact(meridioLB, meridioQueueTable(queueTarget()))
	}
	if errors.Is(err, errNoExpression) {
		return fmt.Errorf("queue packets to the balancer: %w: it has neither nft_queue nor nft_compat with xt_NFQUEUE: %w", ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("queue packets to the balancer: %w", err)
	}
	for _, part := range []struct {
		name, loss string
		fill       func(*nftables.Conn) error
	}{
		{"snat-local", "path MTU messages of the load balancer keep its internal address", meridioLocalSource},
		{"meridio-nat", "no table for port translation", meridioNAT},
		{defragTable, "IPv6 fragments do not reach the targets", meridioDefrag},
		{"meridio-metrics", "no counters per target", meridioMetrics},
	} {
		err := w.transact(meridioLB, part.fill)
		if errors.Is(err, errNoExpression) {
			w.note("nftables %s left out, %s: %v", part.name, part.loss, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("nftables %s: %w", part.name, err)
		}
	}
	return nil
}

// queueExpression is `queue num 0-3`.
func queueExpression() expr.Any {
	return &expr.Queue{Num: meridioQueue, Total: meridioQueues}
}

// queueTarget is the same as a target of xtables: NFQUEUE revision 3, struct
// xt_NFQ_info_v3 {u16 queuenum, queues_total, flags}, aligned to 8 bytes. flags
// 0: without a listener the packet is lost, as with Meridio's rule.
func queueTarget() expr.Any {
	info := make(xt.Unknown, 8)
	binary.NativeEndian.PutUint16(info, meridioQueue)
	binary.NativeEndian.PutUint16(info[2:], meridioQueues)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &info}
}

var meridioTable = &nftables.Table{Name: "meridio-nfqlb", Family: nftables.TableFamilyINet}

// family is what the rules need to know of IPv4 or IPv6.
type family struct {
	vips      *nftables.Set
	vip       netip.Addr
	proto     byte   // meta nfproto
	saddr     uint32 // offsets in the IP header
	daddr     uint32
	size      uint32 // of an address
	icmp      byte   // meta l4proto
	tooBig    []byte // ICMP type and code of "packet too big"
	inner     uint32 // offset, in the ICMP message, of the lost packet's destination
	sumOffset uint32 // of the checksum a changed source address alters, from the IP header
}

func meridioFamilies() []family {
	return []family{
		{
			vips: &nftables.Set{Table: meridioTable, Name: "ipv4-vips", Interval: true, KeyType: nftables.TypeIPAddr},
			vip:  meridioVIP4, proto: unix.NFPROTO_IPV4, saddr: 12, daddr: 16, size: 4,
			icmp: unix.IPPROTO_ICMP, tooBig: []byte{3, 4}, inner: 8 + 16, // RFC 792
			sumOffset: 10, // the IP header's own
		},
		{
			vips: &nftables.Set{Table: meridioTable, Name: "ipv6-vips", Interval: true, KeyType: nftables.TypeIP6Addr},
			vip:  meridioVIP6, proto: unix.NFPROTO_IPV6, saddr: 8, daddr: 24, size: 16,
			icmp: unix.IPPROTO_ICMPV6, tooBig: []byte{2}, inner: 8 + 24, // RFC 4443
			// IPv6 has no header checksum, but ICMPv6 sums the addresses. A
			// message of this host has no extension headers.
			sumOffset: 40 + 2,
		},
	}
}

// meridioQueueTable sends what goes to a virtual address to the queues: packets
// from outside, and ICMP errors of this host.
func meridioQueueTable(queue expr.Any) func(*nftables.Conn) error {
	return func(c *nftables.Conn) error {
		c.AddTable(meridioTable)
		families := meridioFamilies()
		for _, f := range families {
			// An interval set holds [start, end).
			err := c.AddSet(f.vips, []nftables.SetElement{
				{Key: f.vip.AsSlice()},
				{Key: f.vip.Next().AsSlice(), IntervalEnd: true},
			})
			if err != nil {
				return err
			}
		}
		in := chain(c, meridioTable, "nfqlb", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, 0)
		out := chain(c, meridioTable, "nfqlb-local", nftables.ChainTypeFilter, nftables.ChainHookOutput, 0)
		for _, f := range families {
			c.AddRule(&nftables.Rule{Table: meridioTable, Chain: in, Exprs: concat(
				f.is(), f.address(f.daddr, false), []expr.Any{&expr.Counter{}, queue},
			)})
			c.AddRule(&nftables.Rule{Table: meridioTable, Chain: out, Exprs: concat(
				meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{f.icmp}),
				f.is(), f.address(f.daddr, false), []expr.Any{&expr.Counter{}, queue},
			)})
		}
		return nil
	}
}

// meridioLocalSource makes a "packet too big" that this host sends about a
// marked packet come from the virtual address, the only one a client knows.
func meridioLocalSource(c *nftables.Conn) error {
	ch := chain(c, meridioTable, "snat-local", nftables.ChainTypeRoute, nftables.ChainHookOutput, -300)
	for _, f := range meridioFamilies() {
		c.AddRule(&nftables.Rule{Table: meridioTable, Chain: ch, Exprs: concat(
			meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{f.icmp}),
			meta(expr.MetaKeyMARK, expr.CmpOpNeq, make([]byte, 4)),
			f.is(), f.address(f.daddr, true), f.address(f.saddr, true),
			[]expr.Any{
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: uint32(len(f.tooBig))},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: f.tooBig},
				&expr.Counter{},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: f.inner, Len: f.size},
				&expr.Payload{
					OperationType: expr.PayloadWrite, SourceRegister: 1,
					Base: expr.PayloadBaseNetworkHeader, Offset: f.saddr, Len: f.size,
					CsumType: expr.CsumTypeInet, CsumOffset: f.sumOffset,
				},
				&expr.Immediate{Register: 1, Data: make([]byte, 4)},
				&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
			},
		)})
	}
	return nil
}

func meridioNAT(c *nftables.Conn) error {
	c.AddTable(&nftables.Table{Name: "meridio-nat", Family: nftables.TableFamilyINet})
	return nil
}

const defragTable = "meridio-defrag"

// meridioDefrag has the kernel reassemble what comes from outside (the rule on
// the state loads nf_defrag) but track no connection.
func meridioDefrag(c *nftables.Conn) error {
	t := c.AddTable(&nftables.Table{Name: defragTable, Family: nftables.TableFamilyINet})
	pre := chain(c, t, "pre-defrag", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityEarly)
	in := chain(c, t, "in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)
	out := chain(c, t, "out", nftables.ChainTypeFilter, nftables.ChainHookOutput, -300)
	c.AddRule(&nftables.Rule{Table: t, Chain: pre, Exprs: concat(
		// A comparison shorter than the name is a comparison of the prefix.
		meta(expr.MetaKeyIIFNAME, expr.CmpOpEq, []byte("load-balan")), []expr.Any{&expr.Notrack{}},
	)})
	c.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: []expr.Any{&expr.Notrack{}}})
	c.AddRule(&nftables.Rule{Table: t, Chain: in, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitUNTRACKED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
	c.AddRule(&nftables.Rule{Table: t, Chain: out, Exprs: []expr.Any{&expr.Notrack{}}})
	return nil
}

// meridioMetrics counts what is sent to each target, by mark.
func meridioMetrics(c *nftables.Conn) error {
	t := c.AddTable(&nftables.Table{Name: "meridio-metrics", Family: nftables.TableFamilyINet})
	var jumps []nftables.SetElement
	for _, target := range meridioTargets {
		name := fmt.Sprintf("fwmark-%d", target.mark())
		ch := c.AddChain(&nftables.Chain{Name: name, Table: t})
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{&expr.Counter{}}})
		jumps = append(jumps, nftables.SetElement{
			Key:         binaryutil.NativeEndian.PutUint32(target.mark()),
			VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: name},
		})
	}
	verdicts := &nftables.Set{
		Table: t, Name: "fwmark-verdict", IsMap: true,
		KeyType: nftables.TypeMark, DataType: nftables.TypeVerdict, KeyByteOrder: binaryutil.NativeEndian,
	}
	if err := c.AddSet(verdicts, jumps); err != nil {
		return err
	}
	hits := chain(c, t, "target-hits", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, 0)
	c.AddRule(&nftables.Rule{Table: t, Chain: hits, Exprs: concat(
		meta(expr.MetaKeyMARK, expr.CmpOpNeq, make([]byte, 4)),
		[]expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			// Register 0 is the verdict.
			&expr.Lookup{SourceRegister: 1, DestRegister: 0, IsDestRegSet: true, SetName: verdicts.Name, SetID: verdicts.ID},
		},
	)})
	return nil
}

// chain adds a base chain with policy accept.
func chain(c *nftables.Conn, t *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return c.AddChain(&nftables.Chain{
		Name: name, Table: t, Type: kind, Hooknum: hook,
		Priority: nftables.ChainPriorityRef(priority), Policy: &accept,
	})
}

// meta compares a property of the packet with data, in host byte order.
func meta(key expr.MetaKey, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: data},
	}
}

// is matches packets of the family.
func (f family) is() []expr.Any {
	return meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f.proto})
}

// address matches when the address at offset is in the set of virtual
// addresses or, inverted, is not.
func (f family) address(offset uint32, invert bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Lookup{SourceRegister: 1, SetName: f.vips.Name, SetID: f.vips.ID, Invert: invert},
	}
}

func concat(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
