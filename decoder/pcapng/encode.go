// SPDX-License-Identifier: Apache-2.0

// Encoding: every Append function adds one whole block to a buffer, little
// endian, or adds nothing and fails.

package pcapng

import (
	"encoding/binary"
	"fmt"
	"slices"
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
			b.err = tooLong(code, n)
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
//
// This is the block that there are many of: its room is made once and filled in
// words, not appended to.
func AppendPacket(dst []byte, p *Packet) ([]byte, error) {
	if uint64(len(p.Data)) > uint64(p.OrigLen) {
		return dst, fmt.Errorf("packet of %d bytes cannot have been %d bytes long on the wire", len(p.Data), p.OrigLen)
	}
	n := packetHead + aligned(len(p.Data)) + 4
	if p.Flags != 0 || p.DropCount != 0 || p.HasID || p.HasQueue || len(p.Verdicts)+len(p.Comments)+len(p.Custom) > 0 {
		options, err := optionsSize(p)
		if err != nil {
			return dst, err
		}
		n += options
	}
	if n > MaxBlock {
		return dst, fmt.Errorf("block of %d bytes (at most %d): %w", n, MaxBlock, ErrTooLong)
	}
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	b := dst[start:]
	putHead(b, p)
	at := putPadded(b, packetHead, p.Data)
	if at < n-4 {
		putOptions(b, at, p)
	}
	le.PutUint32(b[n-4:], uint32(n))
	return dst, nil
}

// putHead writes what comes before the packet's bytes to b, the whole block.
func putHead(b []byte, p *Packet) {
	le.PutUint64(b, uint64(BlockPacket)|uint64(len(b))<<32)
	le.PutUint64(b[8:], uint64(uint32(p.Interface))|p.Time>>32<<32)
	le.PutUint64(b[16:], p.Time&0xffffffff|uint64(len(p.Data))<<32)
	le.PutUint32(b[24:], p.OrigLen)
}

// packetHead is the length of an enhanced packet block before the packet's bytes.
const packetHead = 28

// aligned is n up to a multiple of four.
func aligned(n int) int { return (n + 3) &^ 3 }

// optionsSize is the length of p's options with their end; 0: there are none.
func optionsSize(p *Packet) (int, error) {
	n := 0
	if p.Flags != 0 {
		n += 8
	}
	if p.DropCount != 0 {
		n += 12
	}
	if p.HasID {
		n += 12
	}
	if p.HasQueue {
		n += 8
	}
	for i := range p.Verdicts {
		v := p.Verdicts[i].size()
		if v > 0xffff {
			return 0, tooLong(epbVerdict, v)
		}
		n += 4 + aligned(v)
	}
	for _, c := range p.Comments {
		if len(c) > 0xffff {
			return 0, tooLong(optComment, len(c))
		}
		if len(c) > 0 {
			n += 4 + aligned(len(c))
		}
	}
	for i := range p.Custom {
		c := len(p.Custom[i].Data)
		if c > 0xffff-4 {
			return 0, tooLong(optCustom, 4+c)
		}
		n += 8 + aligned(c)
	}
	if n > 0 {
		n += 4
	}
	return n, nil
}

func tooLong(code uint16, n int) error {
	return fmt.Errorf("option %d of %d bytes (at most 65535): %w", code, n, ErrTooLong)
}

// putOptions writes p's options and their end to b, which has room for them, from
// at on.
func putOptions(b []byte, at int, p *Packet) {
	if p.Flags != 0 {
		le.PutUint64(b[at:], headOf(epbFlags, 4)|uint64(p.Flags)<<32)
		at += 8
	}
	if p.DropCount != 0 {
		le.PutUint32(b[at:], uint32(headOf(epbDropCount, 8)))
		le.PutUint64(b[at+4:], p.DropCount)
		at += 12
	}
	if p.HasID {
		le.PutUint32(b[at:], uint32(headOf(epbPacketID, 8)))
		le.PutUint64(b[at+4:], p.PacketID)
		at += 12
	}
	if p.HasQueue {
		le.PutUint64(b[at:], headOf(epbQueue, 4)|uint64(p.Queue)<<32)
		at += 8
	}
	for i := range p.Verdicts {
		at = p.Verdicts[i].put(b, at)
	}
	for _, c := range p.Comments {
		if len(c) > 0 {
			le.PutUint32(b[at:], uint32(headOf(optComment, len(c))))
			at = putPadded(b, at+4, c)
		}
	}
	for i := range p.Custom {
		o := &p.Custom[i]
		code := uint16(optCustom)
		if o.Keep {
			code = optCustomKeep
		}
		le.PutUint64(b[at:], headOf(code, 4+len(o.Data))|uint64(o.PEN)<<32)
		at = putPadded(b, at+8, o.Data)
	}
	le.PutUint32(b[at:], optEnd)
}

// headOf is an option's code and the length of its value, as they are written.
func headOf(code uint16, n int) uint64 { return uint64(code) | uint64(uint16(n))<<16 }

// putPadded writes data to b from at on, with zeros up to a multiple of four, and
// returns where they end.
func putPadded(b []byte, at int, data []byte) int {
	end := at + aligned(len(data))
	if len(data)&3 != 0 {
		le.PutUint32(b[end-4:], 0)
	}
	copy(b[at:end], data)
	return end
}

// number tells whether a verdict of this kind is one.
func (v *Verdict) number() bool { return v.Kind == VerdictTC || v.Kind == VerdictXDP }

// size is the length of the option's value.
func (v *Verdict) size() int {
	if v.number() {
		return 9
	}
	return 1 + len(v.Raw)
}

// put writes the option to b from at on and returns where it ends.
func (v *Verdict) put(b []byte, at int) int {
	n := v.size()
	le.PutUint32(b[at:], uint32(headOf(epbVerdict, n)))
	at += 4
	end := at + aligned(n)
	le.PutUint32(b[end-4:], 0)
	b[at] = byte(v.Kind)
	if v.number() {
		le.PutUint64(b[at+1:], v.Value)
	} else {
		copy(b[at+1:end], v.Raw)
	}
	return end
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
