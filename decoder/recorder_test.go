// SPDX-License-Identifier: Apache-2.0

// The recorder's behaviour and cost.

package decoder

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// failing is a file on a full disk.
type failing struct{ left int }

func (f *failing) Write(b []byte) (int, error) {
	if len(b) > f.left {
		return f.left, io.ErrShortWrite
	}
	f.left -= len(b)
	return len(b), nil
}

func TestRecorderErrorSticks(t *testing.T) {
	r := NewRecorder(&failing{left: 500}, RecorderOptions{Buffer: 1})
	items := journeyItems()
	var failed error
	for range 20 {
		failed = r.Record(items[3].([]byte))
	}
	if !errors.Is(failed, io.ErrShortWrite) {
		t.Fatal(failed)
	}
	if err := r.Context(items[0].(*Context)); err != failed {
		t.Error(err)
	}
	if err := r.Close(); err != failed {
		t.Error(err)
	}
}

// A recorder that is killed has lost no more than what FlushAfter allows.
func TestRecorderFlushes(t *testing.T) {
	var out bytes.Buffer
	r := NewRecorder(&out, RecorderOptions{})
	items := journeyItems()
	feed(t, r, items[:1])
	var got tape
	if res, err := Replay(bytes.NewReader(out.Bytes()), &got); err != nil || res.Contexts != 1 {
		t.Fatalf("the session is not on disk: %+v, %v", res, err)
	}
	feed(t, r, items[1:4])
	feed(t, r, []any{&Context{Time: testBoot + 300e6, Clock: &Clock{}}})
	if res, err := Replay(bytes.NewReader(out.Bytes()), &got); err != nil || res.Records != 1 {
		t.Errorf("after 300 ms: %+v, %v", res, err)
	}
}

func TestRecordAllocatesNothing(t *testing.T) {
	r := NewRecorder(io.Discard, RecorderOptions{})
	items := journeyItems()
	feed(t, r, items)
	for i, item := range items {
		raw, ok := item.([]byte)
		if !ok {
			continue
		}
		if n := testing.AllocsPerRun(1000, func() { _ = r.Record(raw) }); n != 0 && i < 13 {
			t.Errorf("item %d: %v allocations per record", i, n)
		}
	}
}

func BenchmarkRecorder(b *testing.B) {
	r := NewRecorder(io.Discard, RecorderOptions{})
	items := journeyItems()
	feed(b, r, items)
	raw := items[5].([]byte)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Record(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecorderOfHeaders is the whole way of a flood's records to a file that
// takes no time: a packet comes in, and is freed.
func BenchmarkRecorderOfHeaders(b *testing.B) {
	p := NewParts(PartsOptions{Size: 1 << 30, Next: func(int) (io.WriteCloser, error) { return nopCloser{io.Discard}, nil }})
	r, err := NewRedactor(p, PayloadHeaders, nil)
	if err != nil {
		b.Fatal(err)
	}
	items := journeyItems()
	feed(b, r, items[:3])
	in := items[3].([]byte)
	free := items[10].([]byte)
	b.ReportAllocs()
	for b.Loop() {
		if err := errors.Join(r.Record(in), r.Record(free)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2, "ns/record")
}

// nowhere is a Sink that only counts.
type nowhere int

func (n *nowhere) Record([]byte) error    { *n++; return nil }
func (n *nowhere) Context(*Context) error { return nil }

func BenchmarkReplay(b *testing.B) {
	items := journeyItems()[:4]
	for range 9999 {
		items = append(items, items[3])
	}
	file := recorded(b, items)
	b.ReportAllocs()
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		var n nowhere
		if _, err := Replay(bytes.NewReader(file), &n); err != nil || n != 10000 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/record")
}
