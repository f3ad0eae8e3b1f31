// SPDX-License-Identifier: Apache-2.0

package decoder

import "waymark/bpf"

// maxFragmented bounds the fragmented packets remembered at a time.
const maxFragmented = 4096

// fragmented remembers first fragments, so that a decision about a packet
// that the kernel put together again (nf_defrag before the balancer's queue)
// can be recomputed although the record at hand is of a later fragment: the
// reassembled packet lives on in the skb of whichever came last
// (net/ipv4/inet_fragment.c, inet_frag_reasm_prepare).
type fragmented struct {
	first map[fragKey]LBPacket
	ring  []fragKey
	at    int
}

// fragKey identifies a fragmented packet in a namespace (RFC 791, RFC 8200).
type fragKey struct {
	netns    uint32
	src, dst [16]byte
	id       uint16
	proto    uint8
}

func newFragmented() fragmented { return fragmented{first: map[fragKey]LBPacket{}} }

func keyOfFragment(r *bpf.Record) fragKey {
	k := fragKey{netns: r.Netns, src: r.Src, dst: r.Dst, id: r.IpId}
	if r.IpVersion == 4 {
		k.proto = r.Proto // IPv6 identifies by addresses and number alone
	}
	return k
}

// note keeps r's tuple if it is a first fragment that came in.
func (f *fragmented) note(r *bpf.Record) {
	if !firstFragment(r) || r.Hook != uint16(bpf.HookTCIngress) {
		return
	}
	k := keyOfFragment(r)
	if _, ok := f.first[k]; !ok {
		if len(f.ring) < maxFragmented {
			f.ring = append(f.ring, k)
		} else {
			delete(f.first, f.ring[f.at])
			f.ring[f.at] = k
			f.at = (f.at + 1) % maxFragmented
		}
	}
	p := lbPacket(r)
	p.FragFirst = false
	f.first[k] = p
}

func firstFragment(r *bpf.Record) bool { return r.FragOff&1 != 0 && r.FragOff&^7 == 0 }
func laterFragment(r *bpf.Record) bool { return r.FragOff&^7 != 0 }

// lbPacket is a record's packet as a balancer looks at it, without its bytes.
func lbPacket(r *bpf.Record) LBPacket {
	p := LBPacket{
		Src: r.SrcAddr(), Dst: r.DstAddr(), SPort: r.SrcPort(), DPort: r.DstPort(), Proto: r.Proto,
		ICMPType: r.IcmpType, FragID: r.IpId, FragFirst: firstFragment(r), FragLater: laterFragment(r),
	}
	if icmpEcho(r.Proto, r.IcmpType) {
		p.ICMPID = uint16(r.Seq >> 16)
	}
	return p
}
