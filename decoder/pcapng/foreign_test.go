// SPDX-License-Identifier: Apache-2.0

// Files that other programs could have written, and files nobody should.

package pcapng

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

// raw builds blocks by hand, in any byte order.
type raw struct {
	order binary.AppendByteOrder
	b     []byte
}

func (r *raw) u16(v ...uint16) *raw {
	for _, v := range v {
		r.b = r.order.AppendUint16(r.b, v)
	}
	return r
}

func (r *raw) u32(v ...uint32) *raw {
	for _, v := range v {
		r.b = r.order.AppendUint32(r.b, v)
	}
	return r
}

// option adds an option with its padding.
func (r *raw) option(code uint16, v string) *raw {
	r.u16(code, uint16(len(v)))
	r.b = append(r.b, v...)
	for len(v)%4 != 0 {
		r.b = append(r.b, 0)
		v += "\x00"
	}
	return r
}

// block wraps body.
func (r *raw) block(t BlockType, body *raw) *raw {
	n := uint32(len(body.b) + 12)
	r.u32(uint32(t), n)
	r.b = append(r.b, body.b...)
	return r.u32(n)
}

func (r *raw) new() *raw { return &raw{order: r.order} }

func (r *raw) section() *raw {
	return r.block(BlockSection, r.new().u32(byteOrderMagic).u16(1, 0).u32(0xffffffff, 0xffffffff))
}

func (r *raw) iface(name string) *raw {
	return r.block(BlockInterface, r.new().u16(1, 0).u32(4).option(ifName, name).u32(0))
}

// u64 is v as eight bytes in r's order.
func (r *raw) u64(v uint64) string { return string(r.order.AppendUint64(nil, v)) }

func TestForeign(t *testing.T) {
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		r := &raw{order: order}
		r.section().iface("a").
			block(0x0BAD0001, r.new().u32(1, 2, 3)). // not known
			block(4, r.new().u32(0)).                // name resolution
			block(BlockSimple, func() *raw { b := r.new().u32(3); b.b = append(b.b, "abc\x00"...); return b }()).
			block(BlockSimple, func() *raw { b := r.new().u32(9); b.b = append(b.b, "abcd"...); return b }()).
			block(BlockOldPacket, func() *raw {
				b := r.new().u16(0, 7).u32(1, 2, 2, 60)
				b.b = append(b.b, "xy\x00\x00"...)
				return b.option(optComment, "old").option(3, "hash")
			}()).
			block(BlockPacket, func() *raw {
				b := r.new().u32(0, 1, 2, 1, 60)
				b.b = append(b.b, "z\x00\x00\x00"...)
				return b.option(2222, "unknown").option(epbPacketID, r.u64(77)).option(epbVerdict, "\x02"+r.u64(3)).
					option(epbVerdict, "\x09weird").option(epbDropCount, r.u64(5)).option(optCustomText, r.u64(0)+"text")
			}()).
			block(BlockStatistics, r.new().u32(0, 1, 2).option(isbOSDrop, r.u64(8))).
			section().iface("b")
		want := []any{
			&Section{},
			&Interface{LinkType: LinkEthernet, SnapLen: 4, Name: "a", TSResol: 6},
			&Packet{Data: []byte("abc"), OrigLen: 3},
			&Packet{Data: []byte("abcd"), OrigLen: 9},
			&Packet{Time: 1<<32 + 2, Data: []byte("xy"), OrigLen: 60, DropCount: 7, Comments: [][]byte{[]byte("old")}},
			&Packet{
				Time: 1<<32 + 2, Data: []byte("z"), OrigLen: 60, PacketID: 77, HasID: true, DropCount: 5,
				Verdicts: []Verdict{{Kind: VerdictXDP, Value: 3}, {Kind: 9, Raw: []byte("weird")}},
			},
			&Statistics{Time: 1<<32 + 2, OSDropped: 8},
			&Section{},
			&Interface{LinkType: LinkEthernet, SnapLen: 4, Name: "b", TSResol: 6},
		}
		got, _, err := read(bytes.NewReader(r.b))
		if err != io.EOF || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %v\n got %+v\nwant %+v", order, err, got, want)
		}
	}
}

// A file may hold sections of both byte orders, as after cat.
func TestMixedByteOrder(t *testing.T) {
	little, big := &raw{order: binary.LittleEndian}, &raw{order: binary.BigEndian}
	file := append(little.section().iface("little").b, big.section().iface("big").b...)
	got, _, err := read(bytes.NewReader(file))
	if err != io.EOF || len(got) != 4 || got[3].(*Interface).Name != "big" {
		t.Errorf("%+v, %v", got, err)
	}
}

// broken are files with one fault each: what the fault is, where the block
// with it begins, and how many blocks come before.
var broken = []struct {
	name   string
	kind   error
	offset int64
	blocks int
	says   string
	file   func() []byte
}{
	{"empty", ErrNotPcapng, 0, 0, "empty", func() []byte { return nil }},
	{"text", ErrNotPcapng, 0, 0, "text", func() []byte { return []byte("this is no capture\n") }},
	{"short-text", ErrNotPcapng, 0, 0, "text", func() []byte { return []byte("hm\n") }},
	{"classic-pcap", ErrNotPcapng, 0, 0, "classic pcap", func() []byte {
		return leRaw().u32(0xa1b2c3d4).u16(2, 4).u32(0, 0, 65535, 1).b
	}},
	{"gzip", ErrNotPcapng, 0, 0, "gzip", func() []byte { return []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03") }},
	{"magic", ErrNotPcapng, 0, 0, "byte order", func() []byte { return leRaw().u32(0x0A0D0D0A, 28, 0x11223344, 0, 0, 0, 28).b }},
	{"second-magic", ErrCorrupt, 28, 1, "byte order", func() []byte {
		return leRaw().section().u32(0x0A0D0D0A, 28, 0x11223344, 0, 0, 0, 28).b
	}},
	{"version", ErrCorrupt, 0, 0, "version 2", func() []byte {
		return leRaw().block(BlockSection, leRaw().u32(byteOrderMagic).u16(2, 0).u32(0, 0)).b
	}},
	{"short-section", ErrCorrupt, 0, 0, "too short", func() []byte {
		return leRaw().block(BlockSection, leRaw().u32(byteOrderMagic)).b
	}},
	{"length-zero", ErrCorrupt, 28, 1, "length 0", func() []byte { return leRaw().section().u32(6, 0, 0).b }},
	{"length-odd", ErrCorrupt, 28, 1, "length 13", func() []byte { return leRaw().section().u32(6, 13, 0, 13).b }},
	{"length-huge", ErrCorrupt, 28, 1, "over", func() []byte { return leRaw().section().u32(6, 0xfffffff0, 0).b }},
	{"length-twice", ErrCorrupt, 28, 1, "at its end", func() []byte { return leRaw().section().u32(0xBAD, 16, 7, 20).b }},
	{"zeros", ErrTruncated, 28, 1, "zeros", func() []byte { return leRaw().section().u32(0, 0, 0, 0, 0).b }},
	{"cut", ErrTruncated, 28, 1, "not whole", func() []byte { return leRaw().section().u32(6, 64, 0, 0, 0).b }},
	{"interface-unknown", ErrCorrupt, 28, 1, "interface 0", func() []byte {
		return leRaw().section().block(BlockPacket, leRaw().u32(0, 0, 0, 0, 0)).b
	}},
	{"packet-over-block", ErrCorrupt, 60, 2, "room for 4", func() []byte {
		return leRaw().section().iface("abcd").block(BlockPacket, leRaw().u32(0, 0, 0, 5, 5, 0)).b
	}},
	{"packet-length-wraps", ErrCorrupt, 60, 2, "room for 4", func() []byte {
		return leRaw().section().iface("abcd").block(BlockPacket, leRaw().u32(0, 0, 0, 0xffffffff, 0xffffffff, 0)).b
	}},
	{"option-over-block", ErrCorrupt, 60, 2, "longer than its block", func() []byte {
		return leRaw().section().iface("abcd").block(BlockPacket, leRaw().u32(0, 0, 0, 0, 0).u16(1, 5).u32(0)).b
	}},
	{"short-packet-id", ErrCorrupt, 60, 2, "option 5", func() []byte {
		return leRaw().section().iface("abcd").block(BlockPacket, leRaw().u32(0, 0, 0, 0, 0).option(epbPacketID, "abc")).b
	}},
	{"short-custom", ErrCorrupt, 28, 1, "too short", func() []byte { return leRaw().section().block(BlockCustom, leRaw()).b }},
}

func leRaw() *raw { return &raw{order: binary.LittleEndian} }

func TestBrokenFiles(t *testing.T) {
	for _, test := range broken {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join("testdata", "broken", test.name+".pcapng")
			if *update {
				if err := os.WriteFile(path, test.file(), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			file, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			blocks, _, err := read(bytes.NewReader(file))
			var e *Error
			if !errors.As(err, &e) || !errors.Is(err, test.kind) {
				t.Fatalf("error %v, want %v", err, test.kind)
			}
			if e.Offset != test.offset || len(blocks) != test.blocks || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v after %d blocks; want %q at %d after %d", err, len(blocks), test.says, test.offset, test.blocks)
			}
		})
	}
}
