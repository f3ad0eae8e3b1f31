// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"waymark/bpf"
)

// The balancer's flows and targets as the kernel's fast path reads them: one
// block of memory in the layout of bpf/fastpath.h, host byte order, made of the
// same index that Decide uses.

// fastImage is the block, and whose packets its counters count.
type fastImage struct {
	bytes   []byte
	owners  []*counter
	targets int // from here on the owners are targets
}

// nexthop is the only outcome that routing has for a mark; Dev 0: it has
// several, or none.
type nexthop struct {
	dev, mtu uint32
	via      netip.Addr
}

// fastRoutes is what routing does with marked packets, for handing them on.
type fastRoutes struct {
	v4, v6 map[int]nexthop // by mark
	local  []cidr          // addresses of this host
}

// Limits of an image.
const (
	fastImageMax     = 2 << 20 // bytes; larger map values do not fit the kernel's allocator everywhere
	fastNoIndex      = 0xffff  // NO_INDEX
	fastMaxPrefixes  = 1 << 20
	fastTableHeader  = 16 // sizes of the structs of bpf/fastpath.h
	fastTargetSize   = 40
	fastLengthSize   = 32
	fastPrefixSize   = 24
	fastFlowSize     = 12
	fastFlowPageSize = 256 * 4
)

// newFastImage makes the image of a state. counters is where its counters start
// in the map they are in. The error says which limit the state exceeds.
func newFastImage(s *State, counters int, routes *fastRoutes) (*fastImage, error) {
	if len(s.flows) > int(bpf.FastpathFastLimitsFAST_FLOWS) {
		return nil, fmt.Errorf("%d flows, the fast path takes %d", len(s.flows), bpf.FastpathFastLimitsFAST_FLOWS)
	}
	if routes.keeps(s.flows) {
		routes = nil
	}
	w := &imageWriter{tables: make(map[*Target]uint32), routes: routes}
	header := bpf.FastpathFastImage{Counters: uint32(counters)}
	w.alloc(binary.Size(&header))
	x := s.index
	header.HashPorts = oneIf(s.HashMode == HashSCTPPorts)
	header.Ping = oneIf(s.PromiscuousPing)
	header.NoFlow, header.NoTarget = uint32(max(s.NoFlowMark, 0)), uint32(max(s.NoTargetMark, 0))
	// What most packets need stands close together.
	local := localIndex(routes)
	if err := w.prefixes(&x.dsts, &header.Dsts); err != nil {
		return nil, err
	}
	flows := w.alloc(fastFlowSize * len(s.flows))
	header.Flows = uint32(flows)
	if err := w.prefixes(&x.srcs, &header.Srcs); err != nil {
		return nil, err
	}
	if routes != nil {
		header.LocalBits = lowBits(routes.local)
	}
	if err := w.prefixes(&local, &header.Local); err != nil {
		return nil, err
	}
	header.Dports, header.Sports = w.ports(x.dports), w.ports(x.sports)
	header.Sums = w.sums(x.rows)
	header.Refs, header.Blocks = w.refs(x.rows), uint32(x.rows.refs)
	for i, set := range []protoSet{0, setTCP, setUDP, setSCTP} {
		header.Protos[i] = shortest(x.rows, x.protos[set], len(s.flows))
	}
	header.Pings = shortest(x.rows, x.pings, len(s.flows))
	if err := w.flows(flows, s.flows); err != nil {
		return nil, err
	}
	if len(w.owners) > int(bpf.FastpathFastLimitsFAST_COUNTERS) {
		return nil, fmt.Errorf("%d flows and targets, the fast path counts %d", len(w.owners), bpf.FastpathFastLimitsFAST_COUNTERS)
	}
	if len(w.bytes) > fastImageMax {
		return nil, fmt.Errorf("flows and tables need %d bytes, the fast path has %d", len(w.bytes), fastImageMax)
	}
	if _, err := binary.Encode(w.bytes, binary.NativeEndian, &header); err != nil {
		return nil, err
	}
	return &fastImage{w.bytes, w.owners, len(s.flows)}, nil
}

// keeps tells whether one of the host's own addresses is within a flow's
// destinations: its packets stay here whatever their mark.
func (r *fastRoutes) keeps(flows []*flow) bool {
	if r == nil {
		return false
	}
	for _, f := range flows {
		for _, d := range f.dsts {
			for _, l := range r.local {
				if d.contains(l.hi, l.lo) || l.contains(d.hi, d.lo) {
					return true
				}
			}
		}
	}
	return false
}

// lowBits has a bit for the low 6 bits of each address in the list.
func lowBits(list []cidr) (out uint64) {
	for _, c := range list {
		if c.maskLo&63 != 63 {
			return ^uint64(0)
		}
		out |= 1 << (c.lo & 63)
	}
	return out
}

// localIndex is an index of this host's addresses, which are those of one flow.
func localIndex(routes *fastRoutes) prefixIndex {
	if routes == nil || len(routes.local) == 0 {
		return prefixIndex{other: noFlows}
	}
	host := []*flow{{dsts: routes.local}}
	return makePrefixIndex(makeBitRows(1), host, func(f *flow) []cidr { return f.dsts })
}

// shortest is a row in the form that is looked at fastest: of all flows or of one.
func shortest(r *bitRows, row flowRow, flows int) uint32 {
	n, last := 0, 0
	for i := range flows {
		if r.has(row, i) {
			n, last = n+1, i
		}
	}
	switch n {
	case flows:
		return uint32(allFlows)
	case 1:
		return uint32(oneFlow) | uint32(last)
	}
	return uint32(row)
}

// imageWriter is an image that grows.
type imageWriter struct {
	bytes  []byte
	owners []*counter
	tables map[*Target]uint32
	routes *fastRoutes
}

// alloc adds n bytes, aligned to 8.
func (w *imageWriter) alloc(n int) (off int) {
	off = len(w.bytes)
	w.bytes = append(w.bytes, make([]byte, (n+7)&^7)...)
	return off
}

func (w *imageWriter) put(off int, values ...uint32) {
	for i, v := range values {
		binary.NativeEndian.PutUint32(w.bytes[off+4*i:], v)
	}
}

func (w *imageWriter) put64(off int, values ...uint64) {
	for i, v := range values {
		binary.NativeEndian.PutUint64(w.bytes[off+8*i:], v)
	}
}

// counter gives packets of an owner the next counter.
func (w *imageWriter) counter(owner *counter) { w.owners = append(w.owners, owner) }

// sums are the summary words of the rows: of no more than 64 words each row has
// one.
func (w *imageWriter) sums(r *bitRows) uint32 {
	off := w.alloc(8 * len(r.sum))
	w.put64(off, r.sum...)
	return uint32(off)
}

func (w *imageWriter) refs(r *bitRows) uint32 {
	blocks := w.alloc(len(r.blocks) * blockWords * 8)
	for i := range r.blocks {
		w.put64(blocks+i*blockWords*8, r.blocks[i][:]...)
	}
	off := w.alloc(4 * len(r.ref))
	for i, ref := range r.ref {
		w.put(off+4*i, uint32(blocks)+ref*blockWords*8)
	}
	return uint32(off)
}

// ports are the pages of x, 0 if every flow takes every port.
func (w *imageWriter) ports(x *portIndex) uint32 {
	if len(x.pages) == 1 && !slices.ContainsFunc(x.pages[0][:], func(row flowRow) bool { return row != allFlows }) {
		return 0
	}
	pages := make([]int, len(x.pages))
	for i := range x.pages {
		pages[i] = w.alloc(fastFlowPageSize)
		for low, row := range x.pages[i] {
			w.put(pages[i]+4*low, uint32(row))
		}
	}
	off := w.alloc(fastFlowPageSize)
	for high, page := range x.page {
		w.put(off+4*high, uint32(pages[page]))
	}
	return uint32(off)
}

// prefixes writes x with a hash that needs no 128-bit product, in which no
// prefix is further from its place than the kernel looks.
func (w *imageWriter) prefixes(x *prefixIndex, out *bpf.FastpathFastPrefixes) error {
	lengths := w.alloc(fastLengthSize * len(x.lengths))
	for i, m := range x.lengths {
		w.put64(lengths+fastLengthSize*i, m.maskHi, m.maskLo)
	}
	// step is where the search goes on between two lengths.
	var step func(from, to int) uint32
	step = func(from, to int) uint32 {
		if from >= to {
			return 0
		}
		mid := (from + to) / 2
		off := lengths + fastLengthSize*mid
		w.put(off+16, uint32(mid)+1, step(from, mid), step(mid+1, to))
		return uint32(off)
	}
	out.First = step(0, len(x.lengths))
	any4 := x.other
	for _, e := range x.table {
		if e.length != 0 && x.lengths[e.length-1].bits() == 96 && e.hi == 0 && e.lo == 0xffff<<32 {
			any4 = e.row
		}
	}
	size := 4
	for size < 2*x.used {
		size *= 2
	}
	var table []prefixEntry
	for table == nil {
		if size > fastMaxPrefixes {
			return fmt.Errorf("%d prefixes do not fit the fast path's table", x.used)
		}
		table = spread(x.table, size)
		size *= 2
	}
	entries := w.alloc(fastPrefixSize * len(table))
	for i, e := range table {
		w.put64(entries+fastPrefixSize*i, e.hi, e.lo)
		w.put(entries+fastPrefixSize*i+16, e.length, uint32(e.row))
	}
	out.Other, out.Any4 = uint32(x.other), uint32(any4)
	out.Entries, out.Last = uint32(entries), uint32(len(table)-1)
	return nil
}

func (m prefixLength) bits() int { return bits.OnesCount64(m.maskHi) + bits.OnesCount64(m.maskLo) }

// spread puts the entries into a table of size entries, nil if one of them would
// be too far from its place.
func spread(entries []prefixEntry, size int) []prefixEntry {
	table := make([]prefixEntry, size)
	for _, e := range entries {
		if e.length == 0 {
			continue
		}
		slot := int(((e.hi ^ bits.RotateLeft64(e.lo, 7)) + uint64(e.length)) * 0x9e3779b97f4a7c15 >> 32)
		tries := 0
		for ; tries < int(bpf.FastpathFastLimitsFAST_PROBES); tries++ {
			if at := &table[(slot+tries)&(size-1)]; at.length == 0 {
				*at = e
				break
			}
		}
		if tries == int(bpf.FastpathFastLimitsFAST_PROBES) {
			return nil
		}
	}
	return table
}

// flows writes the flows, and the tables they have, at off.
func (w *imageWriter) flows(off int, flows []*flow) error {
	for _, f := range flows {
		w.counter(f.matches)
	}
	for i, f := range flows {
		table := uint32(0) // flows of encapsulated SCTP are the queue's
		if f.encap == 0 && f.target.Table() != nil {
			var err error
			if table, err = w.table(f.target); err != nil {
				return err
			}
		}
		w.put(off+fastFlowSize*i, table, uint32(i), oneIf(f.match != nil))
	}
	return nil
}

// table writes a target's table once.
func (w *imageWriter) table(t *Target) (uint32, error) {
	if off, ok := w.tables[t]; ok {
		return off, nil
	}
	table := t.Table()
	if table.N() >= fastNoIndex {
		return 0, fmt.Errorf("table %s has room for %d targets, the fast path takes fewer than %d", t.Name, table.N(), fastNoIndex)
	}
	targets := w.alloc(fastTargetSize * table.N())
	hits := *t.hits.Load()
	first := uint32(len(w.owners))
	for i, mark := range table.active {
		w.counter(&hits[i])
		if mark >= 0 {
			w.put(targets+fastTargetSize*i, uint32(mark))
			w.nexthops(targets+fastTargetSize*i, int(mark))
		}
	}
	off := w.alloc(fastTableHeader + 2*table.M())
	w.put(off, uint32(table.M()), uint32(1<<32/table.M()), uint32(targets), first)
	for i, index := range table.lookup {
		if index < 0 {
			index = fastNoIndex
		}
		binary.NativeEndian.PutUint16(w.bytes[off+fastTableHeader+2*i:], uint16(index))
	}
	w.tables[t] = uint32(off)
	return uint32(off), nil
}

// nexthops writes where routing sends a target's packets.
func (w *imageWriter) nexthops(off, mark int) {
	if w.routes == nil {
		return
	}
	if h := w.routes.v4[mark]; h.dev != 0 {
		w.put(off+4, h.dev, h.mtu)
		copy(w.bytes[off+12:], h.via.AsSlice())
	}
	if h := w.routes.v6[mark]; h.dev != 0 {
		w.put(off+16, h.dev, h.mtu)
		copy(w.bytes[off+24:], h.via.AsSlice())
	}
}

func oneIf(set bool) uint32 {
	if set {
		return 1
	}
	return 0
}
