// SPDX-License-Identifier: Apache-2.0

// Encoding: every Append function adds one whole block to a buffer, little
// endian, or adds nothing and fails.

package pcapng

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// block is a block under construction. The first fault sticks.
type block struct {
	buf   []byte
	start int
	err   error
}

func begin(dst []byte, t BlockType) block {
	b := block{buf: dst, start: len(dst)}
	b.u32(uint32(t))
	b.u32(0) // total length, known in end
	return b
}

func (b *block) u16(v uint16) { b.buf = le.AppendUint16(b.buf, v) }
func (b *block) u32(v uint32) { b.buf = le.AppendUint32(b.buf, v) }

// time is a packet time as the format splits it: high half first.
func (b *block) time(t uint64) {
	b.u32(uint32(t >> 32))
	b.u32(uint32(t))
}

var zeros [3]byte

// padding fills up to a multiple of four.
func (b *block) padding() {
	if n := -(len(b.buf) - b.start) & 3; n != 0 {
		b.buf = append(b.buf, zeros[:n]...)
	}
}

// optionHead starts an option whose value has n bytes.
func (b *block) optionHead(code uint16, n int) bool {
	if n > 0xffff {
		if b.err == nil {
			b.err = fmt.Errorf("option %d of %d bytes (at most 65535): %w", code, n, ErrTooLong)
		}
		return false
	}
	b.u16(code)
	b.u16(uint16(n))
	return true
}

// text writes a UTF-8 option, nothing if it is empty.
func text[T string | []byte](b *block, code uint16, s T) {
	if len(s) == 0 || !b.optionHead(code, len(s)) {
		return
	}
	b.buf = append(b.buf, s...)
	b.padding()
}

func (b *block) optU32(code uint16, v uint32) {
	b.optionHead(code, 4)
	b.u32(v)
}

func (b *block) optU64(code uint16, v uint64) {
	b.optionHead(code, 8)
	b.buf = le.AppendUint64(b.buf, v)
}

// optCount writes a counter option, nothing if it is 0.
func (b *block) optCount(code uint16, v uint64) {
	if v != 0 {
		b.optU64(code, v)
	}
}

func (b *block) custom(o *CustomOption) {
	code := uint16(optCustom)
	if o.Keep {
		code = optCustomKeep
	}
	if !b.optionHead(code, 4+len(o.Data)) {
		return
	}
	b.u32(o.PEN)
	b.buf = append(b.buf, o.Data...)
	b.padding()
}

func (b *block) verdict(v *Verdict) {
	number := v.Kind == VerdictTC || v.Kind == VerdictXDP
	n := 9
	if !number {
		n = 1 + len(v.Raw)
	}
	if !b.optionHead(epbVerdict, n) {
		return
	}
	b.buf = append(b.buf, byte(v.Kind))
	if number {
		b.buf = le.AppendUint64(b.buf, v.Value)
	} else {
		b.buf = append(b.buf, v.Raw...)
	}
	b.padding()
}

// endOptions closes the options that began at offset from, if there are any.
func (b *block) endOptions(from int) {
	if len(b.buf) > from {
		b.u32(optEnd)
	}
}

// end closes the block and returns the buffer with it, or without it on error.
func (b *block) end() ([]byte, error) {
	n := len(b.buf) - b.start + 4
	if b.err == nil && n > MaxBlock {
		b.err = fmt.Errorf("block of %d bytes (at most %d): %w", n, MaxBlock, ErrTooLong)
	}
	if b.err != nil {
		return b.buf[:b.start], b.err
	}
	b.u32(uint32(n))
	le.PutUint32(b.buf[b.start+4:], uint32(n))
	return b.buf, nil
}

// AppendSection adds a section header block. Its interfaces count from 0.
func AppendSection(dst []byte, s *Section) ([]byte, error) {
	b := begin(dst, BlockSection)
	b.u32(byteOrderMagic)
	b.u16(1) // version 1.0
	b.u16(0)
	b.u32(0xffffffff) // length of the section: not known yet, -1
	b.u32(0xffffffff)
	options := len(b.buf)
	text(&b, shbHardware, s.Hardware)
	text(&b, shbOS, s.OS)
	text(&b, shbApp, s.Application)
	text(&b, optComment, s.Comment)
	for i := range s.Custom {
		b.custom(&s.Custom[i])
	}
	b.endOptions(options)
	return b.end()
}

// AppendInterface adds an interface description block.
func AppendInterface(dst []byte, i *Interface) ([]byte, error) {
	b := begin(dst, BlockInterface)
	b.u16(uint16(i.LinkType))
	b.u16(0)
	b.u32(i.SnapLen)
	options := len(b.buf)
	text(&b, ifName, i.Name)
	text(&b, ifDescription, i.Description)
	b.optionHead(ifTSResol, 1)
	b.buf = append(b.buf, i.TSResol)
	b.padding()
	if i.Filter != "" && b.optionHead(ifFilter, 1+len(i.Filter)) {
		b.buf = append(b.buf, 0) // 0: filter text follows
		b.buf = append(b.buf, i.Filter...)
		b.padding()
	}
	text(&b, ifOS, i.OS)
	if i.TSOffset != 0 {
		b.optU64(ifTSOffset, uint64(i.TSOffset))
	}
	b.endOptions(options)
	return b.end()
}

// AppendPacket adds an enhanced packet block. It fails if p.OrigLen is less
// than the bytes given. Nothing is allocated while dst has room.
func AppendPacket(dst []byte, p *Packet) ([]byte, error) {
	if uint64(len(p.Data)) > uint64(p.OrigLen) {
		return dst, fmt.Errorf("packet of %d bytes cannot have been %d bytes long on the wire", len(p.Data), p.OrigLen)
	}
	var head [28]byte // at once, because this is the block that there are many of
	le.PutUint32(head[0:], uint32(BlockPacket))
	le.PutUint32(head[8:], uint32(p.Interface))
	le.PutUint32(head[12:], uint32(p.Time>>32))
	le.PutUint32(head[16:], uint32(p.Time))
	le.PutUint32(head[20:], uint32(len(p.Data)))
	le.PutUint32(head[24:], p.OrigLen)
	b := block{buf: append(dst, head[:]...), start: len(dst)}
	b.buf = append(b.buf, p.Data...)
	b.padding()
	options := len(b.buf)
	if p.Flags != 0 {
		b.optU32(epbFlags, p.Flags)
	}
	b.optCount(epbDropCount, p.DropCount)
	if p.HasID {
		b.optU64(epbPacketID, p.PacketID)
	}
	if p.HasQueue {
		b.optU32(epbQueue, p.Queue)
	}
	for i := range p.Verdicts {
		b.verdict(&p.Verdicts[i])
	}
	for _, c := range p.Comments {
		text(&b, optComment, c)
	}
	for i := range p.Custom {
		b.custom(&p.Custom[i])
	}
	b.endOptions(options)
	return b.end()
}

// AppendCustom adds a custom block without options.
func AppendCustom(dst []byte, c *Custom) ([]byte, error) {
	t := BlockCustom
	if c.Keep {
		t = BlockCustomKeep
	}
	b := begin(dst, t)
	b.u32(c.PEN)
	b.buf = append(b.buf, c.Data...)
	b.padding()
	return b.end()
}

// AppendStatistics adds an interface statistics block.
func AppendStatistics(dst []byte, s *Statistics) ([]byte, error) {
	b := begin(dst, BlockStatistics)
	b.u32(uint32(s.Interface))
	b.time(s.Time)
	options := len(b.buf)
	for _, o := range [...]struct {
		code uint16
		time uint64
	}{{isbStart, s.Start}, {isbEnd, s.End}} {
		if o.time != 0 {
			b.optionHead(o.code, 8)
			b.time(o.time)
		}
	}
	b.optCount(isbRecv, s.Received)
	b.optCount(isbDrop, s.Dropped)
	b.optCount(isbOSDrop, s.OSDropped)
	b.optCount(isbDeliver, s.Delivered)
	for i := range s.Custom {
		b.custom(&s.Custom[i])
	}
	b.endOptions(options)
	return b.end()
}
