// SPDX-License-Identifier: Apache-2.0

// Another implementation as judge and as the mark to beat.

package pcapng

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

func TestGopacketReads(t *testing.T) {
	at := time.Unix(1_700_000_000, 123456789)
	long := bytes.Repeat([]byte("payload "), 40)
	blocks := []any{
		&Section{Application: "waymark 1"},
		&Interface{LinkType: LinkEthernet, SnapLen: 320, Name: "lb/nsm-1", Description: "node n1", TSResol: NanoResolution},
		&Custom{PEN: 32473, Data: []byte("context")},
		&Packet{
			Time: uint64(at.UnixNano()), Data: long, OrigLen: 1500, PacketID: 4, HasID: true,
			Comments: [][]byte{[]byte("c")}, Custom: []CustomOption{{PEN: 32473, Data: long}},
		},
		&Interface{LinkType: LinkRaw, Name: "lb/if7", TSResol: NanoResolution},
		&Packet{Interface: 1, Time: uint64(at.UnixNano()) + 1, Data: long[:33], OrigLen: 33},
		&Statistics{Interface: 1, Delivered: 1},
	}
	r, err := pcapgo.NewNgReader(bytes.NewReader(write(t, blocks...)), pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	if app := r.SectionInfo().Application; app != "waymark 1" {
		t.Errorf("application %q", app)
	}
	for i, want := range []struct {
		data  []byte
		orig  int
		iface string
		link  layers.LinkType
	}{{long, 1500, "lb/nsm-1", layers.LinkTypeEthernet}, {long[:33], 33, "lb/if7", layers.LinkTypeRaw}} {
		data, ci, err := r.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		face, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want.data) || ci.Length != want.orig || !ci.Timestamp.Equal(at.Add(time.Duration(i))) {
			t.Errorf("packet %d: %d bytes, %+v", i, len(data), ci)
		}
		if face.Name != want.iface || face.LinkType != want.link {
			t.Errorf("packet %d: interface %+v", i, face)
		}
	}
	if _, _, err := r.ReadPacketData(); err != io.EOF {
		t.Error(err)
	}
}

func benchPacket() *Packet {
	return &Packet{
		Time: 1_700_000_000_123456789, Data: make([]byte, 96), OrigLen: 1500, Flags: FlagInbound,
		PacketID: 7, HasID: true, Comments: [][]byte{[]byte("ingress lb/nsm-1, mark 0x13b8 (5048)")},
		Custom: []CustomOption{{PEN: 32473, Data: make([]byte, 160)}},
	}
}

func TestPacketAllocatesNothing(t *testing.T) {
	w := NewWriter(io.Discard, 0)
	if err := w.Section(&Section{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Interface(&Interface{}); err != nil {
		t.Fatal(err)
	}
	p := benchPacket()
	if n := testing.AllocsPerRun(5000, func() { _ = w.Packet(p) }); n != 0 {
		t.Errorf("%v allocations per packet written", n)
	}
	var file bytes.Buffer
	w = NewWriter(&file, 0)
	_ = w.Section(&Section{})
	_, _ = w.Interface(&Interface{})
	for range 5000 {
		_ = w.Packet(p)
	}
	_ = w.Flush()
	r := NewReader(&file)
	for range 10 {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(4000, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet read", n)
	}
}

// BenchmarkWritePacket writes 96 bytes with direction, packet number, comment
// and a custom option of 160 bytes; plain is without options, the one thing
// that gopacket can write.
func BenchmarkWritePacket(b *testing.B) {
	for _, plain := range []bool{false, true} {
		name, p := "options", benchPacket()
		if plain {
			name, p = "plain", &Packet{Time: p.Time, Data: p.Data, OrigLen: p.OrigLen}
		}
		b.Run(name, func(b *testing.B) {
			w := NewWriter(io.Discard, 0)
			_ = w.Section(&Section{})
			_, _ = w.Interface(&Interface{TSResol: 9})
			b.ReportAllocs()
			for b.Loop() {
				if err := w.Packet(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGopacketWritePacket(b *testing.B) {
	w, err := pcapgo.NewNgWriter(io.Discard, layers.LinkTypeEthernet)
	if err != nil {
		b.Fatal(err)
	}
	p := benchPacket()
	ci := gopacket.CaptureInfo{Timestamp: time.Unix(0, int64(p.Time)), CaptureLength: len(p.Data), Length: int(p.OrigLen)}
	b.ReportAllocs()
	for b.Loop() {
		if err := w.WritePacket(ci, p.Data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	var file bytes.Buffer
	w := NewWriter(&file, 0)
	_ = w.Section(&Section{})
	_, _ = w.Interface(&Interface{TSResol: 9})
	for range 1000 {
		_ = w.Packet(benchPacket())
	}
	_ = w.Flush()
	in := bytes.NewReader(file.Bytes())
	r := NewReader(in)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err == io.EOF {
			in.Reset(file.Bytes())
			r = NewReader(in)
		} else if err != nil {
			b.Fatal(err)
		}
	}
}
