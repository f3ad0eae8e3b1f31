// SPDX-License-Identifier: Apache-2.0

// Reader: from a stream to whole blocks, in either byte order.

package pcapng

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	byteOrderMagic = 0x1A2B3C4D
	headSize       = 12 // type, length, and the byte order magic of a section header

	// window is what is read at once; larger blocks are gathered piece by
	// piece, so that a wrong length does not allocate what is not there.
	window = 64 << 10
)

// Block is one block of the file. Of the pointers exactly one is set,
// following Type. All of it holds until the next call of Next, except that
// what Section and Interface point to stays.
type Block struct {
	Type   BlockType
	Offset int64 // in bytes from the start of the file

	Section    *Section
	Interface  *Interface
	Packet     *Packet
	Statistics *Statistics
	Custom     *Custom
}

// Reader reads blocks one after another in bounded memory. Not for concurrent
// use.
type Reader struct {
	in      *bufio.Reader
	order   binary.ByteOrder
	offset  int64 // of the next block
	pending int   // bytes of the window that the last block still uses
	large   []byte
	started bool
	err     error

	interfaces []*Interface
	block      Block
	packet     Packet
	stats      Statistics
	custom     Custom
}

// NewReader returns a Reader from in. Nothing is read yet.
func NewReader(in io.Reader) *Reader {
	return &Reader{in: bufio.NewReaderSize(in, window), order: binary.LittleEndian}
}

// Offset is how many bytes of the file were read as whole blocks.
func (r *Reader) Offset() int64 { return r.offset }

// Interfaces are those of the current section so far. Packet.Interface is an
// index into it.
func (r *Reader) Interfaces() []*Interface { return r.interfaces }

// Next returns the next block of a known type. At the end it returns io.EOF;
// any other error is an *Error. Errors are final.
func (r *Reader) Next() (*Block, error) {
	for r.err == nil {
		b, err := r.next()
		if err != nil {
			r.err = err
			break
		}
		if b != nil {
			return b, nil
		}
	}
	return nil, r.err
}

// next reads one block; nil if its type is unknown.
func (r *Reader) next() (*Block, error) {
	if _, err := r.in.Discard(r.pending); err != nil {
		return nil, r.fail(err, "")
	}
	r.pending = 0

	head, err := r.in.Peek(headSize)
	if err != nil {
		return nil, r.shortHead(head, err)
	}
	if !r.started && BlockType(le.Uint32(head)) != BlockSection {
		return nil, r.fail(ErrNotPcapng, looksLike(head))
	}
	t := BlockType(r.order.Uint32(head))
	if t == BlockSection {
		if err := r.byteOrder(head[8:]); err != nil {
			return nil, err
		}
	}
	length := r.order.Uint32(head[4:])
	switch {
	case t == 0 && length == 0:
		// What a file system leaves of a file that grew when the machine died.
		return nil, r.fail(ErrTruncated, "nothing but zeros follows")
	case length < headSize || length%4 != 0:
		return nil, r.fail(ErrCorrupt, fmt.Sprintf("block length %d", length))
	case length > MaxBlock:
		return nil, r.fail(ErrCorrupt, fmt.Sprintf("block length %d is over %d", length, MaxBlock))
	}
	whole, err := r.whole(int(length))
	if err != nil {
		return nil, err
	}
	if again := r.order.Uint32(whole[length-4:]); again != length {
		return nil, r.fail(ErrCorrupt, fmt.Sprintf("block length is %d at its start, %d at its end", length, again))
	}
	return r.parse(t, whole[8:length-4])
}

// parse fills r.block and moves on.
func (r *Reader) parse(t BlockType, body []byte) (*Block, error) {
	r.block = Block{Type: t, Offset: r.offset}
	known, fault := true, ""
	switch t {
	case BlockSection:
		fault = r.parseSection(body)
	case BlockInterface:
		fault = r.parseInterface(body)
	case BlockPacket:
		fault = r.parsePacket(body)
	case BlockOldPacket:
		fault = r.parseOldPacket(body)
	case BlockSimple:
		fault = r.parseSimple(body)
	case BlockStatistics:
		fault = r.parseStatistics(body)
	case BlockCustom, BlockCustomKeep:
		fault = r.parseCustom(body, t == BlockCustomKeep)
	default:
		known = false
	}
	if fault != "" {
		return nil, r.fail(ErrCorrupt, fault)
	}
	r.started = true
	r.offset += int64(len(body)) + 12
	if !known {
		return nil, nil
	}
	return &r.block, nil
}

// whole returns the next n bytes of the stream.
func (r *Reader) whole(n int) ([]byte, error) {
	if n <= window {
		b, err := r.in.Peek(n)
		r.pending = len(b)
		if err != nil {
			return nil, r.cut(err)
		}
		return b, nil
	}
	r.large = r.large[:0]
	for len(r.large) < n {
		have := len(r.large)
		piece := min(n-have, max(have, window))
		r.large = slices.Grow(r.large, piece)[:have+piece]
		if _, err := io.ReadFull(r.in, r.large[have:]); err != nil {
			return nil, r.cut(err)
		}
	}
	return r.large, nil
}

// byteOrder learns the section's byte order from its magic.
func (r *Reader) byteOrder(magic []byte) error {
	switch {
	case binary.LittleEndian.Uint32(magic) == byteOrderMagic:
		r.order = binary.LittleEndian
	case binary.BigEndian.Uint32(magic) == byteOrderMagic:
		r.order = binary.BigEndian
	case !r.started:
		return r.fail(ErrNotPcapng, "no byte order magic")
	default:
		return r.fail(ErrCorrupt, "section header without byte order magic")
	}
	return nil
}

// shortHead explains a stream that ends before a block's head is whole.
func (r *Reader) shortHead(head []byte, err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return r.fail(err, "")
	case r.started && len(head) == 0:
		return io.EOF
	case len(head) == 0:
		return r.fail(ErrNotPcapng, "it is empty")
	case !r.started && !startsSection(head):
		return r.fail(ErrNotPcapng, looksLike(head))
	}
	return r.cut(io.EOF)
}

// cut makes an end inside a block ErrTruncated, and leaves other errors.
func (r *Reader) cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.fail(ErrTruncated, "the block that starts here is not whole")
	}
	return r.fail(err, "")
}

func (r *Reader) fail(kind error, detail string) error {
	return &Error{Offset: r.offset, Kind: kind, Detail: detail}
}

// startsSection tells whether b could be the first bytes of a section header.
func startsSection(b []byte) bool {
	magic := [4]byte{0x0A, 0x0D, 0x0D, 0x0A}
	n := min(len(b), len(magic))
	return string(b[:n]) == string(magic[:n])
}

// looksLike says what a file that is not pcapng seems to be.
func looksLike(head []byte) string {
	if len(head) >= 4 {
		switch le.Uint32(head) {
		case 0xa1b2c3d4, 0xd4c3b2a1, 0xa1b23c4d, 0x4d3cb2a1:
			return "it is a classic pcap file"
		}
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return "it is compressed with gzip: gunzip it first"
	case len(head) >= 4 && le.Uint32(head) == 0xfd2fb528:
		return "it is compressed with zstd: decompress it first"
	case !slices.ContainsFunc(head, func(c byte) bool { return c < 0x20 && c != '\n' && c != '\r' && c != '\t' }):
		return "it looks like text"
	}
	return "unknown content"
}
