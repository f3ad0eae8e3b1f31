// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
	"unsafe"
)

func TestRecordRoundTrip(t *testing.T) {
	in := Record{
		TimeNs: 1, Trail: 2, Netns: 3, Ifindex: 4, Mark: 5048, Hook: uint16(HookTCEgress), Proto: 6,
		IpVersion: 4, Sport: 0x409c, Dport: 0x8813, // 40000 and 5000 on the wire
	}
	copy(in.Src[:], netip.MustParseAddr("::ffff:20.0.0.7").AsSlice())
	copy(in.Dst[:], netip.MustParseAddr("::ffff:10.0.0.1").AsSlice())
	packet := []byte("packet")
	var out Record
	snap, err := out.Decode(in.Encode(nil, packet))
	if err != nil || !bytes.Equal(snap, packet) {
		t.Fatalf("decoded %q, %v", snap, err)
	}
	if out != in {
		t.Errorf("decoded %+v\nencoded %+v", out, in)
	}
	if s := netip.AddrPortFrom(out.SrcAddr(), out.SrcPort()).String(); s != "20.0.0.7:40000" {
		t.Errorf("source %s", s)
	}
	if s := netip.AddrPortFrom(out.DstAddr(), out.DstPort()).String(); s != "10.0.0.1:5000" {
		t.Errorf("destination %s", s)
	}
}

// TestRecordHasNoPadding: a hole would leak the kernel's memory into
// recordings and make equal records differ.
func TestRecordHasNoPadding(t *testing.T) {
	var r Record
	fields := 5*8 + 9*4 + 2*2 + 2*16 + 8*2 + 6 + 3*2 + 4
	if size := int(unsafe.Sizeof(r)); size != fields || size%8 != 0 {
		t.Errorf("the header has %d bytes, its fields %d", size, fields)
	}
}

func TestDecodeRefusesWhatIsCutOff(t *testing.T) {
	var r Record
	raw := r.Encode(nil, make([]byte, 40))
	for n := range raw {
		if _, err := r.Decode(raw[:n]); err == nil {
			t.Errorf("a record cut to %d of %d bytes was taken", n, len(raw))
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	var r Record
	raw := r.Encode(nil, make([]byte, 96))
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Decode(raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	var r Record
	f.Add(r.Encode(nil, []byte{1, 2, 3}))
	f.Add([]byte{})
	random := make([]byte, 2*RecordSize)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	f.Add(random)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Record
		snap, err := r.Decode(raw)
		if err != nil {
			return
		}
		if len(snap) != int(r.SnapLen) {
			t.Errorf("a snapshot of %d bytes, the header says %d", len(snap), r.SnapLen)
		}
		r.SrcAddr()
		r.DstAddr()
	})
}
