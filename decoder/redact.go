// SPDX-License-Identifier: Apache-2.0

// What of a stream may leave the machine: no more of packets than was asked
// for, and other addresses if that was.

package decoder

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"waymark/bpf"
)

// Payload says how much of each packet a Redactor lets pass.
type Payload int

const (
	// PayloadHeaders is the headers up to the transport's, also of packets inside
	// of packets: see headers.
	PayloadHeaders Payload = iota
	// PayloadOff is no bytes at all.
	PayloadOff
	// PayloadFull is all bytes that were captured.
	PayloadFull
)

// ParsePayload is the Payload called s: off, headers or full.
func ParsePayload(s string) (Payload, error) {
	switch s {
	case "headers":
		return PayloadHeaders, nil
	case "off":
		return PayloadOff, nil
	case "full":
		return PayloadFull, nil
	}
	return 0, fmt.Errorf("payload %q: choose off, headers or full", s)
}

// Redactor is a Sink in front of another, which takes out of records and
// contexts what that is not to have. What is left keeps its order and its
// lengths on the wire.
type Redactor struct {
	next    Sink
	payload Payload
	anon    *Anonymizer
	rec     bpf.Record
	raw     []byte
	layers  headers
}

// NewRedactor returns a Redactor in front of next. anon nil: addresses stay as
// they are; else payload must not be PayloadFull, in which addresses may be
// anywhere.
func NewRedactor(next Sink, payload Payload, anon *Anonymizer) (*Redactor, error) {
	if anon != nil && payload == PayloadFull {
		return nil, fmt.Errorf("payload may hold addresses in any form: anonymize with payload headers or off")
	}
	return &Redactor{next: next, payload: payload, anon: anon}, nil
}

// Context passes c on.
func (r *Redactor) Context(c *Context) error {
	if c.Balancer != nil {
		r.layers.learn(c.Balancer)
	}
	if r.anon != nil {
		c = r.anon.context(c)
	}
	return r.next.Context(c)
}

// Record passes a raw record on. One that is shorter than its own lengths say is
// dropped unless everything passes: nobody knows what it has.
func (r *Redactor) Record(raw []byte) error {
	if r.payload == PayloadFull {
		return r.next.Record(raw)
	}
	snapshot, err := r.rec.Decode(raw)
	if err != nil {
		return nil
	}
	head := bpf.RecordSize + int(r.rec.ExtLen)
	r.raw = append(r.raw[:0], raw[:head]...)
	keep := 0
	if r.payload == PayloadHeaders {
		r.raw = append(r.raw, snapshot...)
		keep = r.layers.keep(&r.rec, snapshot, r.raw[head:], r.anon)
	}
	r.raw = r.raw[:head+keep]
	if r.rec.Proto == protoUDP || r.rec.Proto == protoUDPLite {
		r.rec.Seq = 0 // the first bytes of the payload
	}
	r.rec.SnapLen = uint16(keep)
	if r.anon != nil {
		r.anonymize(r.raw[bpf.RecordSize:head])
	}
	copy(r.raw, unsafe.Slice((*byte)(unsafe.Pointer(&r.rec)), bpf.RecordSize))
	return r.next.Record(r.raw)
}

// anonymize replaces the addresses in r.rec and in its hook's part.
func (r *Redactor) anonymize(ext []byte) {
	r.rec.Src, r.rec.Dst = r.anon.addr16(r.rec.Src), r.anon.addr16(r.rec.Dst)
	if !r.anon.ext(&r.rec, ext) {
		// A hook that is not known here may tell anything.
		clear(ext)
	}
}

// Offsets of addresses in hooks' parts.
const (
	ipvsClientAt  = int(unsafe.Offsetof(bpf.IPVSExt{}.Caddr))
	ipvsServiceAt = int(unsafe.Offsetof(bpf.IPVSExt{}.Vaddr))
	ipvsDestAt    = int(unsafe.Offsetof(bpf.IPVSExt{}.Daddr))
	natAddrAt     = int(unsafe.Offsetof(bpf.NATExt{}.Addr))
	socketLocalAt = int(unsafe.Offsetof(bpf.SocketExt{}.Laddr))
	socketPeerAt  = int(unsafe.Offsetof(bpf.SocketExt{}.Raddr))
	icmpInfoAt    = int(unsafe.Offsetof(bpf.ICMPExt{}.Info))
)

// ext replaces the addresses in the hook's part of a record; false: what it has
// is not known.
func (a *Anonymizer) ext(r *bpf.Record, ext []byte) bool {
	switch bpf.Hook(r.Hook) {
	case bpf.HookIPVSForward, bpf.HookIPVSReply:
		x, err := bpf.DecodeExt[bpf.IPVSExt](ext)
		if err != nil {
			return false
		}
		a.inFamily(ext[ipvsClientAt:], uint16(x.Af))
		a.inFamily(ext[ipvsServiceAt:], uint16(x.Af))
		a.inFamily(ext[ipvsDestAt:], uint16(x.Daf))
	case bpf.HookNAT:
		if _, err := bpf.DecodeExt[bpf.NATExt](ext); err != nil {
			return false
		}
		a.inFamily(ext[natAddrAt:], familyIPv6)
	case bpf.HookSocketReceive, bpf.HookSocketReset:
		x, err := bpf.DecodeExt[bpf.SocketExt](ext)
		if err != nil {
			return false
		}
		a.inFamily(ext[socketLocalAt:], uint16(x.Af))
		a.inFamily(ext[socketPeerAt:], uint16(x.Af))
	case bpf.HookSocketICMP:
		x, err := bpf.DecodeExt[bpf.ICMPExt](ext)
		if err != nil {
			return false
		}
		if r.IpVersion == 4 && x.Type == icmpRedirect {
			a.inFamily(ext[icmpInfoAt:], familyIPv4) // the gateway
		}
	case bpf.HookNFTChain, bpf.HookIPTTable:
		x, err := bpf.DecodeExt[bpf.NetfilterExt](ext)
		if err != nil {
			return false
		}
		for _, name := range [...]*[32]byte{&x.Table, &x.BaseChain, &x.Chain} {
			a.name(name)
		}
		copy(ext, unsafe.Slice((*byte)(unsafe.Pointer(&x)), unsafe.Sizeof(x)))
	case bpf.HookKfreeSkb: // the kernel's own addresses
	case bpf.HookQueueEnter, bpf.HookQueueVerdict, bpf.HookConntrack, bpf.HookBridgeForward, bpf.HookBridgeFlood:
	default:
		return len(ext) == 0
	}
	return true
}

// Address families of Linux.
const (
	familyIPv4 = 2
	familyIPv6 = 10
)

// inFamily replaces the address in the first 16 bytes of b, or of IPv4 in the
// first four.
func (a *Anonymizer) inFamily(b []byte, family uint16) {
	if family == familyIPv4 {
		to := a.addr4([4]byte(b))
		copy(b, to[:])
		return
	}
	to := a.addr16([16]byte(b))
	copy(b, to[:])
}

// name replaces addresses in a name that ends with a zero byte.
func (a *Anonymizer) name(field *[32]byte) {
	was := zeroEnded(field[:])
	if now := a.Text(was); now != was {
		*field = [32]byte{}
		copy(field[:len(field)-1], now)
	}
}

// be16 is short for what packets are full of.
func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }
