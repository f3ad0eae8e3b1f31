// SPDX-License-Identifier: Apache-2.0

// Parsing: the bodies of the blocks. Each function returns what is wrong with
// the body, or nothing.

package pcapng

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// maxInterfaces bounds the memory that descriptions can take per section.
const maxInterfaces = 1 << 16

const badOptions = "an option is longer than its block"

// options walks over the options in b. visit returns false if the value has
// a size that its code cannot have.
func options(order binary.ByteOrder, b []byte, visit func(code uint16, v []byte) bool) string {
	for len(b) >= 4 {
		code, n := order.Uint16(b), int(order.Uint16(b[2:]))
		if code == optEnd {
			return ""
		}
		padded := (n + 3) &^ 3
		if 4+padded > len(b) {
			return badOptions
		}
		if !visit(code, b[4:4+n]) {
			return fmt.Sprintf("option %d has a size of %d", code, n)
		}
		b = b[4+padded:]
	}
	return ""
}

func (r *Reader) parseSection(body []byte) string {
	if len(body) < 16 {
		return "section header is too short"
	}
	if major := r.order.Uint16(body[4:]); major != 1 {
		return fmt.Sprintf("pcapng version %d is not known", major)
	}
	s := &Section{}
	r.block.Section = s
	r.interfaces = nil
	return options(r.order, body[16:], func(code uint16, v []byte) bool {
		switch code {
		case shbHardware:
			s.Hardware = string(v)
		case shbOS:
			s.OS = string(v)
		case shbApp:
			s.Application = string(v)
		case optComment:
			s.Comment = string(v)
		case optCustom, optCustomKeep:
			// The section outlives its block.
			return r.customOption(&s.Custom, code, bytes.Clone(v))
		}
		return true
	})
}

func (r *Reader) parseInterface(body []byte) string {
	if len(body) < 8 {
		return "interface description is too short"
	}
	if len(r.interfaces) == maxInterfaces {
		return fmt.Sprintf("more than %d interfaces", maxInterfaces)
	}
	i := &Interface{
		LinkType: LinkType(r.order.Uint16(body)),
		SnapLen:  r.order.Uint32(body[4:]),
		TSResol:  6,
	}
	r.block.Interface = i
	r.interfaces = append(r.interfaces, i)
	return options(r.order, body[8:], func(code uint16, v []byte) bool {
		switch code {
		case ifName:
			i.Name = string(v)
		case ifDescription:
			i.Description = string(v)
		case ifOS:
			i.OS = string(v)
		case ifFilter:
			if len(v) > 0 && v[0] == 0 {
				i.Filter = string(v[1:])
			}
		case ifTSResol:
			if len(v) != 1 {
				return false
			}
			i.TSResol = v[0]
		case ifTSOffset:
			if len(v) != 8 {
				return false
			}
			i.TSOffset = int64(r.order.Uint64(v))
		}
		return true
	})
}

// newPacket makes the reader's packet empty again.
func (r *Reader) newPacket() *Packet {
	p := &r.packet
	*p = Packet{Comments: p.Comments[:0], Verdicts: p.Verdicts[:0], Custom: p.Custom[:0]}
	r.block.Packet = p
	return p
}

// time is a packet time, high half first.
func (r *Reader) time(b []byte) uint64 {
	return uint64(r.order.Uint32(b))<<32 | uint64(r.order.Uint32(b[4:]))
}

func (r *Reader) parsePacket(body []byte) string {
	if len(body) < 20 {
		return "packet block is too short"
	}
	p := r.newPacket()
	p.Time = r.time(body[4:])
	p.OrigLen = r.order.Uint32(body[16:])
	rest, fault := r.packetData(p, r.order.Uint32(body), r.order.Uint32(body[12:]), body[20:])
	if fault != "" {
		return fault
	}
	return options(r.order, rest, r.packetOption)
}

// parseOldPacket reads the obsolete Packet Block. Of its options the comment
// and the flags mean the same.
func (r *Reader) parseOldPacket(body []byte) string {
	if len(body) < 20 {
		return "packet block is too short"
	}
	p := r.newPacket()
	if drops := r.order.Uint16(body[2:]); drops != 0xffff { // 0xffff: not known
		p.DropCount = uint64(drops)
	}
	p.Time = r.time(body[4:])
	p.OrigLen = r.order.Uint32(body[16:])
	rest, fault := r.packetData(p, uint32(r.order.Uint16(body)), r.order.Uint32(body[12:]), body[20:])
	if fault != "" {
		return fault
	}
	return options(r.order, rest, func(code uint16, v []byte) bool {
		if code > epbFlags {
			return true
		}
		return r.packetOption(code, v)
	})
}

// parseSimple reads a Simple Packet Block: interface 0, no time.
func (r *Reader) parseSimple(body []byte) string {
	if len(body) < 4 {
		return "packet block is too short"
	}
	p := r.newPacket()
	p.OrigLen = r.order.Uint32(body)
	n := min(p.OrigLen, uint32(len(body)-4))
	if len(r.interfaces) > 0 && r.interfaces[0].SnapLen != 0 {
		n = min(n, r.interfaces[0].SnapLen)
	}
	_, fault := r.packetData(p, 0, n, body[4:])
	return fault
}

// packetData takes n bytes of packet from b and returns the options after it.
func (r *Reader) packetData(p *Packet, iface, n uint32, b []byte) (rest []byte, fault string) {
	if uint64(iface) >= uint64(len(r.interfaces)) {
		return nil, fmt.Sprintf("packet of interface %d, but %d are described", iface, len(r.interfaces))
	}
	padded := (uint64(n) + 3) &^ 3
	if padded > uint64(len(b)) {
		return nil, fmt.Sprintf("packet of %d bytes in a block with room for %d", n, len(b))
	}
	p.Interface = int(iface)
	p.Data = b[:n:n]
	return b[padded:], ""
}

func (r *Reader) packetOption(code uint16, v []byte) bool {
	p := &r.packet
	switch code {
	case optComment:
		p.Comments = append(p.Comments, v)
	case epbFlags:
		if len(v) != 4 {
			return false
		}
		p.Flags = r.order.Uint32(v)
	case epbDropCount:
		if len(v) != 8 {
			return false
		}
		p.DropCount = r.order.Uint64(v)
	case epbPacketID:
		if len(v) != 8 {
			return false
		}
		p.PacketID, p.HasID = r.order.Uint64(v), true
	case epbQueue:
		if len(v) != 4 {
			return false
		}
		p.Queue, p.HasQueue = r.order.Uint32(v), true
	case epbVerdict:
		return r.packetVerdict(v)
	case optCustom, optCustomKeep:
		return r.customOption(&p.Custom, code, v)
	case optCustomText, optCustomTextKeep:
		return len(v) >= 4 // of other makers; nothing of ours is in one
	}
	return true
}

func (r *Reader) customOption(to *[]CustomOption, code uint16, v []byte) bool {
	if len(v) < 4 {
		return false
	}
	*to = append(*to, CustomOption{PEN: r.order.Uint32(v), Data: v[4:], Keep: code == optCustomKeep})
	return true
}

func (r *Reader) packetVerdict(v []byte) bool {
	if len(v) < 1 {
		return false
	}
	d := Verdict{Kind: VerdictKind(v[0])}
	switch d.Kind {
	case VerdictTC, VerdictXDP:
		if len(v) != 9 {
			return false
		}
		d.Value = r.order.Uint64(v[1:])
	default:
		d.Raw = v[1:]
	}
	r.packet.Verdicts = append(r.packet.Verdicts, d)
	return true
}

func (r *Reader) parseStatistics(body []byte) string {
	if len(body) < 12 {
		return "interface statistics are too short"
	}
	if n := r.order.Uint32(body); uint64(n) >= uint64(len(r.interfaces)) {
		return fmt.Sprintf("statistics of interface %d, but %d are described", n, len(r.interfaces))
	}
	r.stats = Statistics{Interface: int(r.order.Uint32(body)), Time: r.time(body[4:]), Custom: r.stats.Custom[:0]}
	r.block.Statistics = &r.stats
	return options(r.order, body[12:], r.statisticsOption)
}

func (r *Reader) statisticsOption(code uint16, v []byte) bool {
	s := &r.stats
	var count *uint64
	switch code {
	case isbStart, isbEnd:
		if len(v) != 8 {
			return false
		}
		if code == isbStart {
			s.Start = r.time(v)
		} else {
			s.End = r.time(v)
		}
		return true
	case isbRecv:
		count = &s.Received
	case isbDrop:
		count = &s.Dropped
	case isbOSDrop:
		count = &s.OSDropped
	case isbDeliver:
		count = &s.Delivered
	case optCustom, optCustomKeep:
		return r.customOption(&s.Custom, code, v)
	default:
		return true
	}
	if len(v) != 8 {
		return false
	}
	*count = r.order.Uint64(v)
	return true
}

func (r *Reader) parseCustom(body []byte, keep bool) string {
	if len(body) < 4 {
		return "custom block is too short"
	}
	r.custom = Custom{PEN: r.order.Uint32(body), Data: body[4:], Keep: keep}
	r.block.Custom = &r.custom
	return ""
}
