// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"encoding/binary"
	"io"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
)

// records returns the records of n requests, one after the other, with
// distinct trails; the benchmark shifts times and trails as it goes round.
func records(b *testing.B, n int) (contexts []*Context, raw [][]byte) {
	s := &stream{t: b}
	for i := range uint64(n) {
		s.tcp(i+1, i*10_000, client4, uint16(40000+i), vip4, 5000, syn).request().consumed(us, atConsume)
	}
	for _, it := range s.items {
		raw = append(raw, it.([]byte))
	}
	return newTrench().contexts(), raw
}

// shift moves a raw record in time and to another trail.
func shift(raw []byte, time, trail uint64) {
	// struct record: time_ns at 0, trail at 8, skb at 24.
	binary.NativeEndian.PutUint64(raw, binary.NativeEndian.Uint64(raw)+time)
	binary.NativeEndian.PutUint64(raw[8:], binary.NativeEndian.Uint64(raw[8:])+trail)
}

func benchmark(b *testing.B, o Options) {
	const n = 1000
	contexts, raw := records(b, n)
	st := NewStitcher(o)
	for _, c := range contexts {
		if err := st.Context(c); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		r := raw[i%len(raw)]
		if err := st.Record(r); err != nil {
			b.Fatal(err)
		}
		shift(r, n*10_000, n)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkStitch is the whole way: records to explained journeys.
func BenchmarkStitch(b *testing.B) {
	benchmark(b, Options{Emit: func(*Journey) {}, LB: trenchLB{}})
}

// BenchmarkStitchJSON also prints them.
func BenchmarkStitchJSON(b *testing.B) {
	w := NewJSONWriter(io.Discard)
	benchmark(b, Options{Emit: func(j *Journey) { _ = w.Journey(j) }, LB: trenchLB{}})
}

// BenchmarkStitchText also prints them.
func BenchmarkStitchText(b *testing.B) {
	w := NewTextWriter(io.Discard, TextOptions{})
	benchmark(b, Options{Emit: func(j *Journey) { _ = w.Journey(j) }, LB: trenchLB{}})
}

// BenchmarkIntake files records of journeys that stay open: what every record
// costs, without building anything.
func BenchmarkIntake(b *testing.B) {
	s := &stream{t: b}
	for i := range uint64(64) {
		s.tcp(i+1, i, client4, uint16(40000+i), vip4, 5000, syn).out(nsGW, ext0, 0)
	}
	st := NewStitcher(Options{})
	s.feed(st)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		if err := st.Record(s.items[i%64].([]byte)); err != nil {
			b.Fatal(err)
		}
	}
}

// TestIntakeAllocates: filing a record of a known trail allocates nothing.
func TestIntakeAllocates(t *testing.T) {
	s := &stream{t: t}
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).out(nsGW, ext0, 0)
	raw := s.items[0].([]byte)
	st := NewStitcher(Options{})
	for range 5000 { // beyond what one journey keeps: no slice grows any more
		must(t, st.Record(raw))
	}
	if n := testing.AllocsPerRun(100, func() { must(t, st.Record(raw)) }); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
	var r bpf.Record
	if n := testing.AllocsPerRun(100, func() { _, _ = r.Decode(raw) }); n != 0 {
		t.Errorf("%v allocations per decoded record", n)
	}
}
