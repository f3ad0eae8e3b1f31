// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// everything is one block of each kind with all that can be said in it.
func everything() []any {
	return []any{
		&Section{Hardware: "amd64", OS: "Linux 6.18", Application: "waymark 1", Comment: "ü", Custom: []CustomOption{{PEN: 3, Data: []byte("s")}}},
		&Interface{
			LinkType: LinkEthernet, SnapLen: 96, Name: "lb/nsm-1", Description: "node n1", Filter: "tcp",
			OS: "Linux", TSResol: NanoResolution, TSOffset: -3,
		},
		&Interface{LinkType: LinkRaw, TSResol: 6},
		&Packet{
			Interface: 1, Time: 1<<40 + 7, Data: []byte("12345"), OrigLen: 1500, Flags: FlagOutbound,
			DropCount: 9, PacketID: 1 << 60, HasID: true, Queue: 0, HasQueue: true,
			Comments: [][]byte{[]byte("one"), []byte("four")},
			Verdicts: []Verdict{{Kind: VerdictTC, Value: 2}, {Kind: VerdictXDP, Value: 1}, {Raw: []byte{1, 2, 3}}},
			Custom:   []CustomOption{{PEN: 32473, Data: []byte("abc")}, {PEN: 1, Data: []byte{}, Keep: true}},
		},
		&Packet{},
		&Custom{PEN: 32473, Data: []byte("12345678")},
		&Custom{PEN: 7, Data: []byte{}, Keep: true},
		&Statistics{Interface: 1, Time: 5, Start: 1, End: 1 << 40, Received: 3, Dropped: 4, OSDropped: 5, Delivered: 6, Custom: []CustomOption{{PEN: 3, Data: []byte("statistics")}}},
	}
}

// write encodes blocks into one file.
func write(t testing.TB, blocks ...any) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, 0)
	for _, b := range blocks {
		if err := put(w, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(out.Len()) {
		t.Fatalf("Size is %d, the file has %d bytes", w.Size(), out.Len())
	}
	return out.Bytes()
}

func put(w *Writer, b any) error {
	switch b := b.(type) {
	case *Section:
		return w.Section(b)
	case *Interface:
		_, err := w.Interface(b)
		return err
	case *Packet:
		return w.Packet(b)
	case *Custom:
		return w.Custom(b)
	case *Statistics:
		return w.Statistics(b)
	}
	return fmt.Errorf("no block: %T", b)
}

// read decodes a file into copies of its blocks.
func read(in io.Reader) (blocks []any, end int64, err error) {
	r := NewReader(in)
	for {
		b, err := r.Next()
		if err != nil {
			return blocks, r.Offset(), err
		}
		blocks = append(blocks, copied(b))
	}
}

func copied(b *Block) any {
	switch {
	case b.Section != nil:
		return b.Section
	case b.Interface != nil:
		return b.Interface
	case b.Statistics != nil:
		s := *b.Statistics
		s.Custom = clones(s.Custom)
		return &s
	case b.Custom != nil:
		c := *b.Custom
		c.Data = bytes.Clone(c.Data)
		return &c
	}
	p := *b.Packet
	p.Data = append([]byte(nil), p.Data...)
	p.Comments, p.Verdicts = nil, nil
	for _, c := range b.Packet.Comments {
		p.Comments = append(p.Comments, bytes.Clone(c))
	}
	for _, v := range b.Packet.Verdicts {
		v.Raw = bytes.Clone(v.Raw)
		p.Verdicts = append(p.Verdicts, v)
	}
	p.Custom = clones(b.Packet.Custom)
	return &p
}

func clones(options []CustomOption) (all []CustomOption) {
	for _, c := range options {
		c.Data = append([]byte{}, c.Data...)
		all = append(all, c)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	want := everything()
	file := write(t, want...)
	readers := map[string]io.Reader{
		"whole":    bytes.NewReader(file),
		"one byte": iotest.OneByteReader(bytes.NewReader(file)),
		"data+EOF": iotest.DataErrReader(bytes.NewReader(file)),
	}
	for name, in := range readers {
		got, end, err := read(in)
		if err != io.EOF || end != int64(len(file)) {
			t.Fatalf("%s: ended at %d of %d with %v", name, end, len(file), err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, want)
		}
	}
}

func TestLargeBlocks(t *testing.T) {
	big := make([]byte, MaxBlock-16)
	for i := range big {
		big[i] = byte(i * 7)
	}
	want := []any{&Section{}, &Custom{PEN: 1, Data: big}, &Custom{PEN: 2, Data: big[:window-16]}, &Custom{PEN: 3, Data: big[:window-12]}}
	got, _, err := read(bytes.NewReader(write(t, want...)))
	if err != io.EOF || !reflect.DeepEqual(got, want) {
		t.Errorf("%d blocks, %v", len(got), err)
	}
}

func TestTruncationAtEveryByte(t *testing.T) {
	blocks := everything()
	file := write(t, blocks...)
	var ends []int64 // of each block
	r := NewReader(bytes.NewReader(file))
	for {
		if _, err := r.Next(); err != nil {
			break
		}
		ends = append(ends, r.Offset())
	}
	for cut := range file {
		if cut == 0 {
			continue // an empty file is not a pcapng file
		}
		whole, last := 0, int64(0)
		for whole < len(ends) && ends[whole] <= int64(cut) {
			last = ends[whole]
			whole++
		}
		got, end, err := read(bytes.NewReader(file[:cut]))
		if int64(cut) == last {
			if err != io.EOF {
				t.Errorf("cut at %d, between blocks: %v", cut, err)
			}
		} else if !errors.Is(err, ErrTruncated) {
			t.Errorf("cut at %d: %v, want ErrTruncated", cut, err)
		}
		if end != last || !reflect.DeepEqual(got, blocks[:whole:whole]) && whole > 0 {
			t.Errorf("cut at %d: %d blocks up to %d, want %d up to %d", cut, len(got), end, whole, last)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	long := strings.Repeat("x", 65536)
	tests := map[string]struct {
		block any
		kind  error
	}{
		"comment":            {&Packet{Comments: [][]byte{[]byte(long)}}, ErrTooLong},
		"custom option":      {&Packet{Custom: []CustomOption{{Data: []byte(long)[:65532]}}}, ErrTooLong},
		"interface name":     {&Interface{Name: long}, ErrTooLong},
		"filter":             {&Interface{Filter: long[1:]}, ErrTooLong},
		"application":        {&Section{Application: long}, ErrTooLong},
		"block":              {&Custom{Data: make([]byte, MaxBlock-15)}, ErrTooLong},
		"longer than packet": {&Packet{Data: []byte("12"), OrigLen: 1}, nil},
		"no such interface":  {&Packet{Interface: 1}, nil},
		"statistics":         {&Statistics{Interface: 1}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := NewWriter(&out, 0)
			if err := errors.Join(w.Section(&Section{}), put(w, &Interface{TSResol: 9})); err != nil {
				t.Fatal(err)
			}
			err := put(w, test.block)
			if err == nil || test.kind != nil && !errors.Is(err, test.kind) {
				t.Errorf("error %v, want %v", err, test.kind)
			}
			if err := errors.Join(put(w, &Packet{}), w.Flush()); err != nil {
				t.Error("a refused block must not end the file:", err)
			}
			got, _, err := read(&out)
			if err != io.EOF || len(got) != 3 {
				t.Errorf("%d blocks in the file, want 3: %v", len(got), err)
			}
		})
	}
}

// writes keeps every Write apart, and fails from the nth on.
type writes struct {
	parts [][]byte
	fail  int
}

var errDisk = errors.New("no space left on device")

func (w *writes) Write(b []byte) (int, error) {
	if w.fail > 0 && len(w.parts) >= w.fail {
		return len(b) / 2, errDisk
	}
	w.parts = append(w.parts, bytes.Clone(b))
	return len(b), nil
}

func TestWriteEndsAtBlock(t *testing.T) {
	var out writes
	w := NewWriter(&out, 200)
	for _, b := range everything() {
		if err := put(w, b); err != nil {
			t.Fatal(err)
		}
		if err := w.Packet(&Packet{}); err != nil && w.interfaces > 0 {
			t.Fatal(err)
		}
	}
	if len(out.parts) < 3 {
		t.Fatalf("%d writes", len(out.parts))
	}
	var file []byte
	for i, part := range out.parts {
		file = append(file, part...)
		if _, _, err := read(bytes.NewReader(file)); err != io.EOF {
			t.Errorf("after write %d: %v", i, err)
		}
	}
}

func TestWriteErrorSticks(t *testing.T) {
	out := writes{fail: 1}
	w := NewWriter(&out, 1)
	if err := w.Section(&Section{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Interface(&Interface{}); !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(w.Section(&Section{}), w.Flush()); !errors.Is(err, errDisk) {
			t.Error("no error after the disk was full")
		}
	}
	if len(out.parts) != 1 {
		t.Error("wrote after a failed write")
	}
}

func TestReadErrorIsKept(t *testing.T) {
	file := write(t, everything()...)
	for _, n := range []int{0, 5, 30, len(file)} {
		_, _, err := read(io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(errDisk)))
		if !errors.Is(err, errDisk) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestTime(t *testing.T) {
	tests := []struct {
		resol  uint8
		offset int64
		ticks  uint64
		want   time.Time
	}{
		{9, 0, 1_700_000_000_123456789, time.Unix(1_700_000_000, 123456789)},
		{6, 0, 1_700_000_000_123456, time.Unix(1_700_000_000, 123456000)},
		{9, 100, 5, time.Unix(100, 5)},
		{0, -1, 1_700_000_000, time.Unix(1_699_999_999, 0)},
		{12, 0, 1_000_000_001_999, time.Unix(1, 1)},
		{19, 0, 1<<64 - 1, time.Unix(1, 844674407)},
		{20, 0, 1<<64 - 1, time.Unix(0, 184467440)},
		{28, 0, 1<<64 - 1, time.Unix(0, 1)},
		{29, 0, 1<<64 - 1, time.Unix(0, 0)},
		{127, 0, 1<<64 - 1, time.Unix(0, 0)},
		{0x80 | 10, 0, 3<<10 + 512, time.Unix(3, 500_000_000)},
		{0x80 | 63, 0, 1<<63 + 1<<62, time.Unix(1, 500_000_000)},
		{0x80 | 64, 0, 1 << 63, time.Unix(0, 500_000_000)},
		{0x80 | 65, 0, 1 << 63, time.Unix(0, 250_000_000)},
		{0x80, 0, 3, time.Unix(3, 0)},
		{0xff, 0, 1<<64 - 1, time.Unix(0, 0)},
	}
	for _, test := range tests {
		i := Interface{TSResol: test.resol, TSOffset: test.offset}
		if got := i.Time(test.ticks); !got.Equal(test.want) {
			t.Errorf("resolution %#x, %d ticks: %v, want %v", test.resol, test.ticks, got, test.want.UTC())
		}
	}
}

// What a failed Write left of some blocks is cut behind the last whole one.
func TestWholeBlocks(t *testing.T) {
	file := write(t, everything()...)
	ends := map[int]bool{0: true}
	r := NewReader(bytes.NewReader(file))
	for {
		if _, err := r.Next(); err != nil {
			break
		}
		ends[int(r.Offset())] = true
	}
	last := 0
	for n := range len(file) + 1 {
		if ends[n] {
			last = n
		}
		if got := WholeBlocks(file[:n]); got != last {
			t.Fatalf("of %d bytes %d are whole blocks, want %d", n, got, last)
		}
	}
}

// A packet is encoded the same whether there is room for it or not.
func TestPacketsInRoomOrNot(t *testing.T) {
	for _, p := range []*Packet{
		{Time: 1<<40 + 5, Data: []byte("odd"), OrigLen: 60},
		{Data: []byte("with all"), OrigLen: 60, Flags: 1, PacketID: 7, HasID: true, Comments: [][]byte{[]byte("c")}, Custom: []CustomOption{{PEN: 9, Data: []byte("xy")}}},
		{Data: []byte("12345"), OrigLen: 60, PacketID: 7, HasID: true, Comments: [][]byte{[]byte("no flags")}, Custom: []CustomOption{{PEN: 9, Data: []byte("x")}}},
		{OrigLen: 60, Flags: 2, PacketID: 1 << 60, HasID: true, Comments: [][]byte{[]byte("none")}, Custom: []CustomOption{{PEN: 9, Keep: true}}},
	} {
		want, err := AppendPacket(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range []int{len(want) - 1, len(want)} {
			dirty := bytes.Repeat([]byte{0xff}, 500)
			w := &Writer{buf: dirty[:0:room], interfaces: 1}
			if wrote := w.usual(p); wrote != (room == len(want)) || wrote && !bytes.Equal(w.buf, want) || bytes.Count(dirty[len(w.buf):], []byte{0xff}) != 500-len(w.buf) {
				t.Errorf("%+v, room for %d bytes: %v\n% x\n% x", p, room, wrote, dirty[:len(want)+8], want)
			}
		}
	}
}
