// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"waymark/decoder"
)

// slowSink takes nothing before it may, and refuses after limit things.
type slowSink struct {
	may   chan struct{}
	limit int
	got   []string
}

func (s *slowSink) Record(raw []byte) error          { return s.take(string(raw)) }
func (s *slowSink) Context(c *decoder.Context) error { return s.take(fmt.Sprint("context ", c.Time)) }

func (s *slowSink) take(what string) error {
	<-s.may
	if len(s.got) == s.limit {
		return ErrDone
	}
	s.got = append(s.got, what)
	return nil
}

func TestQueueKeepsOrderBehindASlowSink(t *testing.T) {
	sink := &slowSink{may: make(chan struct{}), limit: 1 << 20}
	q := newQueue(sink)
	var want []string
	raw := bytes.Repeat([]byte{'x'}, 1000)
	for i := range 5000 { // several batches
		copy(raw, fmt.Sprintf("%06d", i))
		if err := q.Record(raw); err != nil {
			t.Fatal(err)
		}
		want = append(want, string(raw))
		if i%100 == 0 {
			if err := q.Context(&decoder.Context{Time: uint64(i)}); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprint("context ", i))
		}
	}
	close(sink.may)
	if err := q.close(); err != nil {
		t.Fatal(err)
	}
	if len(sink.got) != len(want) {
		t.Fatalf("%d things came out, %d went in", len(sink.got), len(want))
	}
	for i := range want {
		if sink.got[i] != want[i] {
			t.Fatalf("number %d is %.20q, want %.20q", i, sink.got[i], want[i])
		}
	}
}

func TestQueueTellsThatTheSinkIsDone(t *testing.T) {
	sink := &slowSink{may: make(chan struct{}), limit: 3}
	close(sink.may)
	q := newQueue(sink)
	for range 5 {
		if err := q.Record([]byte("r")); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.flush(); err != nil {
		t.Fatal(err)
	}
	<-q.refused
	if err := q.flush(); !errors.Is(err, ErrDone) {
		t.Errorf("flush: %v, want what the sink said", err)
	}
	if err := q.close(); !errors.Is(err, ErrDone) {
		t.Errorf("close: %v, want what the sink said", err)
	}
	if len(sink.got) != 3 {
		t.Errorf("the sink got %d records after it had enough", len(sink.got)-3)
	}
}

// A queue that is full makes its writer wait, so that memory stays bounded;
// a sink that ends meanwhile lets it go.
func TestQueueIsBounded(t *testing.T) {
	sink := &slowSink{may: make(chan struct{}), limit: 0}
	q := newQueue(sink)
	raw := make([]byte, batchBytes)
	written := make(chan int)
	go func() {
		n := 0
		for q.Record(raw) == nil {
			n++
		}
		written <- n
	}()
	for len(q.full) < queueBatches {
		runtime.Gosched() // the writer fills it; nothing else can happen
	}
	close(sink.may)
	// One with the sink, one being filled.
	if n := <-written; n > queueBatches+2 {
		t.Errorf("%d MiB were taken, of which %d fit", n, queueBatches)
	}
}
