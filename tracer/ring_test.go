// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"encoding/binary"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"waymark/bpf"
)

// producer is a BPF program that writes one record of the given size, as the
// hooks do: without waking anyone.
func producer(t testing.TB, m *ebpf.Map, size int) *ebpf.Program {
	t.Helper()
	insns := asm.Instructions{
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Imm(asm.R2, int32(size)),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JEq.Imm(asm.R0, 0, "full"),
		asm.Mov.Reg(asm.R6, asm.R0),
		// A counter as the record's time, to check the order.
		asm.LoadMapValue(asm.R7, 0, 0).WithReference("counter"),
	}
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	t.Cleanup(func() { counter.Close() })
	insns[len(insns)-1] = asm.LoadMapValue(asm.R7, counter.FD(), 0)
	insns = append(insns,
		asm.LoadMem(asm.R1, asm.R7, 0, asm.DWord),
		asm.StoreMem(asm.R6, 0, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, 0, asm.R1, asm.DWord),
		asm.StoreImm(asm.R6, int16(snapLenOffset), int64(size-bpf.RecordSize), asm.Half),
		asm.StoreImm(asm.R6, int16(snapLenOffset)-2, 0, asm.Half), // ext_len
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 1), // BPF_RB_NO_WAKEUP
		asm.FnRingbufSubmit.Call(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("full"),
		asm.Return(),
	)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, Instructions: insns, License: "GPL"})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func newRing(t testing.TB, bytes uint32) (*ebpf.Map, *ring) {
	t.Helper()
	needRoot(t)
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: bytes})
	must(t, err)
	r, err := openRing(m)
	must(t, err)
	t.Cleanup(func() { r.close(); m.Close() })
	return m, r
}

func produce(t testing.TB, p *ebpf.Program, n int) {
	t.Helper()
	data := make([]byte, 14)
	for range n { // a signal makes Run repeat all that Repeat asks for
		_, err := p.Run(&ebpf.RunOptions{Data: data})
		must(t, err)
	}
}

func TestRingKeepsOrderOverManyWraps(t *testing.T) {
	const ringBytes = 1 << 16
	m, r := newRing(t, ringBytes)
	size := bpf.RecordSize + 100 // not a multiple of 8, and does not divide the ring
	p := producer(t, m, size)
	var next uint64
	for range 50 {
		const n = ringBytes / 300
		produce(t, p, n)
		got, err := r.drain(0, func(raw []byte) error {
			if len(raw) != size {
				t.Fatalf("record of %d bytes, want %d", len(raw), size)
			}
			if time := binary.LittleEndian.Uint64(raw); time != next {
				t.Fatalf("record %d, want %d", time, next)
			}
			next++
			return nil
		})
		must(t, err)
		if got != n {
			t.Fatalf("drained %d records, want %d", got, n)
		}
	}
}

func TestRingStopsAtTheLimitAndGoesOnThere(t *testing.T) {
	m, r := newRing(t, 1<<16)
	p := producer(t, m, bpf.RecordSize)
	produce(t, p, 10)
	var seen []uint64
	keep := func(raw []byte) error {
		seen = append(seen, binary.LittleEndian.Uint64(raw))
		return nil
	}
	for _, limit := range []int{3, 4, 0} {
		_, err := r.drain(limit, keep)
		must(t, err)
	}
	for i, v := range seen {
		if v != uint64(i) {
			t.Fatalf("records came as %v", seen)
		}
	}
	if len(seen) != 10 {
		t.Fatalf("%d records, want 10", len(seen))
	}
}

// BenchmarkDrain measures draining and decoding records as the hooks write
// them: header and 96 bytes of packet.
func BenchmarkDrain(b *testing.B) {
	const ringBytes = 16 << 20
	m, r := newRing(b, ringBytes)
	size := bpf.RecordSize + parseLen
	p := producer(b, m, size)
	perFill := ringBytes / ((size + ringbufHeader + 7) &^ 7)
	var rec bpf.Record
	var sum uint64
	decode := func(raw []byte) error {
		snap, err := rec.Decode(raw)
		sum += rec.TimeNs + uint64(len(snap))
		return err
	}
	b.ReportAllocs()
	done := 0
	for b.Loop() {
		if done == 0 {
			b.StopTimer()
			produce(b, p, perFill)
			b.StartTimer()
			done = perFill
		}
		n, err := r.drain(1, decode)
		if err != nil || n != 1 {
			b.Fatalf("drained %d: %v", n, err)
		}
		done--
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mrecords/s")
}
