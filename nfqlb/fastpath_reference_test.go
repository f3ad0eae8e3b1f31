// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A balancer as slow and plain as can be, written from nfqlb's specification and
// sharing nothing with the package: what all others must agree with.

type reference struct {
	config Config
	flows  []FlowSpec
	active map[string][]int // marks by index, -1 none, by table
	m      int
	lookup map[string][]int
	order  []FlowSpec // flows and hidden ones as they are tried
}

// refPacket is what the reference reads of a packet.
type refPacket struct {
	key      [40]byte
	later    bool
	proto    uint8 // of the outer packet, and where its header starts
	header   []byte
	inner    []byte // SCTP inside UDP
	readable bool
}

const (
	refTCP, refUDP, refSCTP, refICMP, refICMP6 = 6, 17, 132, 1, 58
)

// decide is the mark that the packet gets, -1 for dropping it, and the flow.
func (r *reference) decide(l3 []byte) (mark int, flow string) {
	p := refParse(l3, 0)
	if !p.readable || p.later {
		return -1, ""
	}
	f := r.first(&p)
	if f != nil && f.Name[0] == '#' {
		if p = refParse(l3, f.UDPEncap); !p.readable {
			return -1, ""
		}
		f = r.first(&p)
	}
	if f == nil {
		return r.fallback(r.config.NoFlowMark), ""
	}
	index := r.table(f.Target)[int(r.hash(&p))%r.m]
	if index < 0 {
		return r.fallback(r.config.NoTargetMark), f.Name
	}
	return r.active[f.Target][index], f.Name
}

func (r *reference) fallback(mark int) int {
	if mark > 0 {
		return mark
	}
	return -1
}

func (r *reference) hash(p *refPacket) uint32 {
	bytes := p.key[:]
	if r.config.HashMode == 1 && p.key[34] == refSCTP {
		bytes = p.key[36:]
	}
	h := uint32(5381)
	for _, b := range bytes {
		h = h*33 + uint32(b)
	}
	return h
}

// table is the Maglev table, populated as the specification's section on it
// says, with glibc's rand() from the manual page's description.
func (r *reference) table(name string) []int {
	if t := r.lookup[name]; t != nil {
		return t
	}
	state := []int64{1}
	for i := 1; i < 31; i++ {
		state = append(state, state[i-1]*16807%2147483647)
	}
	for i := 31; i < 34; i++ {
		state = append(state, state[i-31])
	}
	for i := 34; i < 344; i++ {
		state = append(state, (state[i-31]+state[i-3])&0xffffffff)
	}
	random := func() int {
		n := (state[len(state)-31] + state[len(state)-3]) & 0xffffffff
		state = append(state, n)
		return int(n >> 1)
	}
	active := r.active[name]
	offset, skip, next := make([]int, len(active)), make([]int, len(active)), make([]int, len(active))
	for i := range active {
		offset[i] = random() % r.m
		skip[i] = random()%(r.m-1) + 1
	}
	t := slices.Repeat([]int{-1}, r.m)
	for filled := 0; filled < r.m; {
		any := false
		for i := range active {
			if active[i] < 0 || filled == r.m {
				continue
			}
			any = true
			for ; ; next[i]++ {
				if slot := (offset[i] + next[i]*skip[i]) % r.m; t[slot] < 0 {
					t[slot] = i
					break
				}
			}
			filled++
		}
		if !any {
			break
		}
	}
	if r.lookup == nil {
		r.lookup = make(map[string][]int)
	}
	r.lookup[name] = t
	return t
}

func (r *reference) first(p *refPacket) *FlowSpec {
	if r.order == nil {
		r.order = r.inOrder()
	}
	for i := range r.order {
		if r.matches(&r.order[i], p) {
			return &r.order[i]
		}
	}
	return nil
}

// inOrder is by priority; of equals the first set comes first, and the hidden
// flow before its own.
func (r *reference) inOrder() []FlowSpec {
	var flows []FlowSpec
	for _, f := range r.flows {
		if f.UDPEncap != 0 {
			flows = append(flows, FlowSpec{
				Name: "#" + f.Name, Priority: f.Priority, Protocols: []string{"udp"}, Dests: f.Dests, Srcs: f.Srcs,
				DPorts: []string{strconv.Itoa(f.UDPEncap)}, UDPEncap: f.UDPEncap,
			})
		}
		flows = append(flows, f)
	}
	slices.SortStableFunc(flows, func(a, b FlowSpec) int { return b.Priority - a.Priority })
	return flows
}

func (r *reference) matches(f *FlowSpec, p *refPacket) bool {
	if !refContains(f.Dests, p.key[16:32]) || !refContains(f.Srcs, p.key[:16]) {
		return false
	}
	proto := p.key[34]
	if r.config.PromiscuousPing && (proto == refICMP || proto == refICMP6) && f.Name[0] != '#' {
		return true
	}
	name := map[uint8]string{refTCP: "tcp", refUDP: "udp", refSCTP: "sctp"}[proto]
	if len(f.Protocols) > 0 && !slices.Contains(f.Protocols, name) {
		return false
	}
	if r.config.PromiscuousPing && (proto == refICMP || proto == refICMP6) {
		return false
	}
	if !refPort(f.DPorts, p.key[38:40]) || !refPort(f.SPorts, p.key[36:38]) {
		return false
	}
	if len(f.Match) == 0 {
		return true
	}
	header, outer := p.header, map[uint8]string{refTCP: "tcp", refUDP: "udp", refSCTP: "sctp"}[p.proto]
	if p.inner != nil {
		header, outer = p.inner, "sctp"
	}
	need := map[string]int{"tcp": 20, "udp": 8, "sctp": 12}[outer]
	if len(header) < need {
		return false
	}
	for _, m := range f.Match {
		if !refBytes(m, outer, header) {
			return false
		}
	}
	return true
}

// refBytes is a match like tcp[2:2] & 0xff = 0x10.
func refBytes(match, proto string, header []byte) bool {
	match = strings.ReplaceAll(match, " ", "")
	name, rest, _ := strings.Cut(match, "[")
	place, rest, _ := strings.Cut(rest, "]")
	if name != proto {
		return true
	}
	left, value, _ := strings.Cut(rest, "=")
	from, size, _ := strings.Cut(place, ":")
	off, _ := strconv.Atoi(from)
	n, _ := strconv.Atoi(size)
	got := uint64(0)
	for _, b := range header[off : off+n] {
		got = got<<8 | uint64(b)
	}
	if _, mask, ok := strings.Cut(left, "&"); ok {
		v, _ := strconv.ParseUint(mask, 0, 64)
		got &= v
	}
	want, _ := strconv.ParseUint(value, 0, 64)
	return got == want
}

var refPrefixes = make(map[string]netip.Prefix) // parsed before

func refContains(prefixes []string, addr []byte) bool {
	if len(prefixes) == 0 {
		return true
	}
	for _, s := range prefixes {
		p, ok := refPrefixes[s]
		if !ok {
			p = netip.MustParsePrefix(s)
			refPrefixes[s] = p
		}
		n := p.Bits()
		if p.Addr().Is4() {
			n += 96
		}
		want := p.Addr().As16()
		same := 0
		for same < n && (want[same/8]^addr[same/8])>>(7-same%8)&1 == 0 {
			same++
		}
		if same == n {
			return true
		}
	}
	return false
}

func refPort(ranges []string, port []byte) bool {
	if len(ranges) == 0 {
		return true
	}
	n := int(port[0])<<8 | int(port[1])
	for _, s := range ranges {
		from, to, is := strings.Cut(s, "-")
		if !is {
			to = from
		}
		first, _ := strconv.Atoi(from)
		last, _ := strconv.Atoi(to)
		if first <= n && n <= last {
			return true
		}
	}
	return false
}

// refParse reads a packet and builds its key.
func refParse(b []byte, encap int) (p refPacket) {
	if len(b) > 0 && b[0]>>4 == 4 {
		return refParse4(b, encap)
	}
	if len(b) > 0 && b[0]>>4 == 6 {
		return refParse6(b, encap)
	}
	return p
}

func (p *refPacket) addresses(src, dst []byte) {
	for i, a := range [][]byte{src, dst} {
		if len(a) == 4 {
			p.key[16*i+10], p.key[16*i+11] = 0xff, 0xff
		}
		copy(p.key[16*(i+1)-len(a):], a)
	}
}

func refParse4(b []byte, encap int) (p refPacket) {
	if len(b) < 20 || b[0]&15 < 5 {
		return p
	}
	p.addresses(b[12:16], b[16:20])
	if field := binary.BigEndian.Uint16(b[6:]); field&0x1fff != 0 {
		p.later, p.readable = true, true
		return p
	} else if field&0x2000 != 0 && b[9] == refICMP && refIsError(b, 4) {
		return p // a fragmented error
	}
	n := int(b[0]&15) * 4
	if n > len(b) {
		n = len(b)
	}
	p.transport(b[n:], b[9], 4, encap)
	return p
}

func refIsError(b []byte, version int) bool {
	if version == 4 {
		n := int(b[0]&15) * 4
		return len(b) > n && slices.Contains([]byte{3, 4, 5, 11}, b[n])
	}
	return b[0] == 1 || b[0] == 2
}

func refParse6(b []byte, encap int) (p refPacket) {
	if len(b) < 40 {
		return p
	}
	p.addresses(b[8:24], b[24:40])
	next, rest, first, later, ok := refExtensions(b)
	if !ok {
		return p
	}
	if later {
		p.later, p.readable = true, true
		return p
	}
	if first && next == refICMP6 && len(rest) > 0 && refIsError(rest, 6) {
		return p
	}
	p.transport(rest, next, 6, encap)
	return p
}

// refExtensions is the protocol and bytes behind an IPv6 packet's extension
// headers.
func refExtensions(b []byte) (next uint8, rest []byte, first, later, ok bool) {
	next, rest = b[6], b[40:]
	for next == 0 || next == 43 || next == 60 || next == 44 {
		if len(rest) < 8 {
			return
		}
		size := 8 * (int(rest[1]) + 1)
		if next == 44 {
			size = 8
			if rest[2] != 0 || rest[3]&0xf8 != 0 {
				return rest[0], nil, false, true, true
			}
			if rest[3]&1 != 0 {
				first = true
			}
		}
		next = rest[0]
		rest = rest[min(size, len(rest)):]
	}
	return next, rest, first, false, true
}

func (p *refPacket) transport(b []byte, proto uint8, version, encap int) {
	p.proto, p.header = proto, b
	p.key[34] = proto
	switch {
	case proto == refTCP || proto == refUDP || proto == refSCTP:
		if len(b) < 4 {
			return
		}
		if encap != 0 && proto == refUDP && int(b[2])<<8|int(b[3]) == encap {
			if len(b) < 12 {
				return
			}
			b = b[8:]
			p.inner, p.key[34] = b, refSCTP
		}
		copy(p.key[36:], b[:4])
	case proto == refICMP && version == 4, proto == refICMP6 && version == 6:
		if len(b) < 8 {
			return
		}
		if version == 4 && slices.Contains([]byte{3, 4, 5, 11}, b[0]) || version == 6 && b[0] >= 1 && b[0] <= 2 {
			p.quoted(b[8:], version, encap)
			return
		}
		if version == 4 && b[0] == 8 || version == 6 && b[0] == 128 {
			copy(p.key[32:34], b[4:6])
		}
	}
	p.readable = true
}

// quoted makes the key that of the packet an ICMP error is about, turned round.
func (p *refPacket) quoted(b []byte, version, encap int) {
	var rest []byte
	var proto uint8
	p.key = [40]byte{}
	if version == 4 {
		if len(b) < 20 || b[0]&15 < 5 || (int(b[6])<<8|int(b[7]))&0x1fff != 0 {
			return
		}
		p.addresses(b[16:20], b[12:16])
		proto, rest = b[9], b[min(int(b[0]&15)*4, len(b)):]
	} else {
		if len(b) < 40 {
			return
		}
		p.addresses(b[24:40], b[8:24])
		var later, ok bool
		if proto, rest, _, later, ok = refExtensions(b); !ok || later {
			return
		}
	}
	p.key[34] = proto
	if proto == refTCP || proto == refUDP || proto == refSCTP {
		if len(rest) < 4 {
			return
		}
		if encap != 0 && proto == refUDP && int(rest[0])<<8|int(rest[1]) == encap {
			if len(rest) < 12 {
				return
			}
			rest, p.key[34] = rest[8:], refSCTP
		}
		copy(p.key[36:38], rest[2:4])
		copy(p.key[38:40], rest[0:2])
	}
	p.readable = true
}
