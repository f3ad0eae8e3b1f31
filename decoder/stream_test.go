// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"waymark/bpf"
	. "waymark/decoder"
)

// base is the boot clock of the first record of a stream.
const base = 1_000_000_000_000

// stream builds what a tracer would write and feeds it to a stitcher.
type stream struct {
	t     testing.TB
	items []any // []byte or *Context
}

func (s *stream) add(items ...any) { s.items = append(s.items, items...) }

func (s *stream) contexts(cs ...*Context) {
	for _, c := range cs {
		s.add(c)
	}
}

// feed gives everything to a sink.
func (s *stream) feed(k Sink) {
	s.t.Helper()
	for _, it := range s.items {
		var err error
		switch it := it.(type) {
		case []byte:
			err = k.Record(it)
		case *Context:
			err = k.Context(it)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// run stitches the stream.
func (s *stream) run(o Options) []*Journey {
	s.t.Helper()
	var js []*Journey
	o.Emit = func(j *Journey) { js = append(js, j) }
	if o.LB == nil {
		o.LB = trenchLB{}
	}
	st := NewStitcher(o)
	s.feed(st)
	st.Flush()
	return js
}

// packet is a packet on its way; methods write the records it leaves.
type packet struct {
	s        *stream
	rec      bpf.Record
	now      uint64 // ns
	from, to uint32 // device indexes its Ethernet header names
	app, ext []byte
}

// tcp starts a packet at ns after base on a new trail.
func (s *stream) tcp(trail, at uint64, src string, sport uint16, dst string, dport uint16, flags uint8) *packet {
	p := s.packet(trail, at, src, dst, 6)
	p.rec.Sport, p.rec.Dport, p.rec.TcpFlags = bits.ReverseBytes16(sport), bits.ReverseBytes16(dport), flags
	p.rec.Seq = 1000
	return p
}

func (s *stream) packet(trail, at uint64, src, dst string, proto uint8) *packet {
	p := &packet{s: s, now: base + at}
	p.rec.Trail, p.rec.Skb, p.rec.Flags, p.rec.Proto, p.rec.Ttl = trail, 0xffff888000000000+trail*256, bpf.FlagStart, proto, 64
	p.rec.IpId = uint16(4700 + trail)
	p.addrs(src, dst)
	return p
}

func (p *packet) addrs(src, dst string) *packet {
	a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	p.rec.Src, p.rec.Dst = a.As16(), b.As16()
	p.rec.IpVersion, p.rec.L3Proto = 4, 0x0800
	if a.Is6() {
		p.rec.IpVersion, p.rec.L3Proto, p.rec.IpId = 6, 0x86dd, 0
	}
	return p
}

func (p *packet) echo(typ uint8, id, seq uint16) *packet {
	p.rec.IcmpType, p.rec.Seq = typ, uint32(id)<<16|uint32(seq)
	return p
}

func (p *packet) mark(m uint32) *packet { p.rec.Mark = m; return p }

func (p *packet) after(d time.Duration) *packet { p.now += uint64(d); return p }

func (p *packet) write(hook bpf.Hook, ns, dev uint32) *packet {
	p.rec.Hook, p.rec.TimeNs, p.rec.Netns, p.rec.Ifindex = uint16(hook), p.now, ns, dev
	frame := p.frame()
	p.rec.Len = uint32(len(frame))
	p.s.add(p.rec.Encode(p.ext, frame[:min(len(frame), 96)]))
	p.rec.Flags &^= bpf.FlagStart
	return p
}

func (p *packet) in(ns, dev uint32, d time.Duration) *packet {
	return p.after(d).write(bpf.HookTCIngress, ns, dev)
}

func (p *packet) out(ns, dev uint32, d time.Duration) *packet {
	return p.after(d).write(bpf.HookTCEgress, ns, dev)
}

func (p *packet) drop(ns, dev uint32, d time.Duration, reason uint32, at uint64) *packet {
	p.rec.Reason, p.rec.Location = reason, at
	p.rec.Flags |= bpf.FlagEnd
	p.after(d).write(bpf.HookKfreeSkb, ns, dev)
	p.rec.Flags &^= bpf.FlagEnd
	return p
}

func (p *packet) consumed(d time.Duration, at uint64) *packet {
	p.rec.Location = at
	p.rec.Flags |= bpf.FlagEnd
	p.after(d).write(bpf.HookConsumeSkb, 0, 0)
	p.rec.Flags &^= bpf.FlagEnd
	return p
}

// clone makes a copy with its own trail.
func (p *packet) clone(trail, ns, dev uint32, d time.Duration) *packet {
	c := *p
	c.rec.Parent, c.rec.Trail, c.rec.Skb = p.rec.Trail, uint64(trail), p.rec.Skb+64
	c.now = p.now
	c.after(d).write(bpf.HookSkbClone, ns, dev)
	return &c
}

// segment is one that p is cut into, with its own trail.
func (p *packet) segment(trail, ns, dev uint32, d time.Duration) *packet {
	c := *p
	c.rec.Parent, c.rec.Trail, c.rec.Skb = p.rec.Trail, uint64(trail), p.rec.Skb+uint64(trail)*64
	c.app = p.app[:1400]
	c.after(d).write(bpf.HookSkbSegment, ns, dev)
	return &c
}

// frame builds the bytes.
func (p *packet) frame() []byte {
	eth := &layers.Ethernet{SrcMAC: hw(p.from), DstMAC: hw(p.to), EthernetType: layers.EthernetType(p.rec.L3Proto)}
	stack := []gopacket.SerializableLayer{eth}
	var ip gopacket.NetworkLayer
	if p.rec.IpVersion == 4 {
		l := &layers.IPv4{Version: 4, IHL: 5, TTL: p.rec.Ttl, Id: p.rec.IpId, Protocol: layers.IPProtocol(p.rec.Proto), SrcIP: p.rec.Src[12:], DstIP: p.rec.Dst[12:]}
		ip, stack = l, append(stack, l)
	} else {
		l := &layers.IPv6{Version: 6, HopLimit: p.rec.Ttl, NextHeader: layers.IPProtocol(p.rec.Proto), SrcIP: p.rec.Src[:], DstIP: p.rec.Dst[:]}
		ip, stack = l, append(stack, l)
	}
	switch p.rec.Proto {
	case 6:
		f := p.rec.TcpFlags
		l := &layers.TCP{SrcPort: layers.TCPPort(p.rec.SrcPort()), DstPort: layers.TCPPort(p.rec.DstPort()), Seq: p.rec.Seq, Window: 64240, FIN: f&1 != 0, SYN: f&2 != 0, RST: f&4 != 0, PSH: f&8 != 0, ACK: f&16 != 0}
		_ = l.SetNetworkLayerForChecksum(ip)
		stack = append(stack, l)
	case 17:
		l := &layers.UDP{SrcPort: layers.UDPPort(p.rec.SrcPort()), DstPort: layers.UDPPort(p.rec.DstPort())}
		_ = l.SetNetworkLayerForChecksum(ip)
		stack = append(stack, l)
	case 1:
		stack = append(stack, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(p.rec.IcmpType, p.rec.IcmpCode), Id: uint16(p.rec.Seq >> 16), Seq: uint16(p.rec.Seq)})
	case 58:
		head := make([]byte, 8)
		head[0], head[1] = p.rec.IcmpType, p.rec.IcmpCode
		binary.BigEndian.PutUint32(head[4:], p.rec.Seq)
		stack = append(stack, gopacket.Payload(head))
	}
	stack = append(stack, gopacket.Payload(p.app))
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		p.s.t.Fatal(err)
	}
	return buf.Bytes()
}

func hw(index uint32) net.HardwareAddr {
	m, _ := net.ParseMAC(mac(index))
	return m
}

const us = time.Microsecond

// request sends p the whole way from the client to the target.
func (p *packet) request() *packet {
	return p.requestToLB().balanced().toTarget()
}

func (p *packet) requestToLB() *packet {
	p.from, p.to = ext0, nsm1
	return p.out(nsGW, ext0, 0).in(nsLB, nsm1, 12100)
}

// balanced leaves the load balancer with target 1's mark.
func (p *packet) balanced() *packet {
	p.rec.Ttl--
	p.from, p.to = lbToPX, nscT1
	return p.mark(markT1).out(nsLB, lbToPX, 28800)
}

func (p *packet) toTarget() *packet {
	return p.mark(0).in(nsPX, pxToLB, 9*us).out(nsPX, pxToT1, 8*us).in(nsT1, nscT1, 7*us)
}

// reply sends p the whole way from the target to the client.
func (p *packet) reply() *packet {
	p.replyToLB()
	p.rec.Ttl--
	p.from, p.to = nsm1, ext0
	return p.out(nsLB, nsm1, 9*us).in(nsGW, ext0, 6*us)
}

func (p *packet) replyToLB() *packet {
	p.from, p.to = nscT1, bridge0
	p.out(nsT1, nscT1, 0).in(nsPX, pxToT1, 5*us).in(nsPX, bridge0, 3*us)
	p.rec.Ttl--
	p.from, p.to = bridge0, lbToPX
	return p.out(nsPX, bridge0, 6*us).out(nsPX, pxToLB, 2*us).in(nsLB, lbToPX, 4*us)
}
