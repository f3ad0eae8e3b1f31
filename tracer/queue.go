// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import "waymark/decoder"

// A batch is what waits in one piece; queueBatches of them may wait. Together
// 256 MiB: a million records, half more than opening 10,000 connections through
// four namespaces writes.
const (
	batchBytes   = 1 << 20
	queueBatches = 256
	spareBatches = 4 // kept for reuse
)

// queue lets a sink lag behind the ring: understanding and printing a record
// takes many times as long as reading it, and a burst is longer than a ring
// that all of the time occupies memory should be. When the queue is full as
// well its writer waits, so the ring fills and the programs count what they
// lose.
//
// It is a [decoder.Sink] for one goroutine; the sink behind it is called from
// another.
type queue struct {
	sink    decoder.Sink
	filling *batch
	full    chan *batch
	spare   chan *batch
	refused chan struct{} // closed when the sink returned an error
	ended   chan struct{} // closed when the sink is not called any more
	err     error         // of the sink; set before refused is closed
}

// batch is a piece of the stream in order.
type batch struct {
	bytes []byte // all records
	items []item
}

// item is a context, or the record that ends at an offset of batch.bytes.
type item struct {
	context *decoder.Context
	end     int
}

func newQueue(sink decoder.Sink) *queue {
	q := &queue{
		sink:    sink,
		full:    make(chan *batch, queueBatches),
		spare:   make(chan *batch, spareBatches),
		refused: make(chan struct{}),
		ended:   make(chan struct{}),
	}
	q.filling = q.empty()
	go q.pass()
	return q
}

func (q *queue) empty() *batch {
	select {
	case b := <-q.spare:
		return b
	default:
		return &batch{bytes: make([]byte, 0, batchBytes)}
	}
}

// Record copies a record into the queue.
func (q *queue) Record(raw []byte) error {
	b := q.filling
	if len(b.bytes)+len(raw) > batchBytes {
		if err := q.flush(); err != nil {
			return err
		}
		b = q.filling
	}
	b.bytes = append(b.bytes, raw...)
	b.items = append(b.items, item{end: len(b.bytes)})
	return nil
}

// Context queues c, which must not be changed any more.
func (q *queue) Context(c *decoder.Context) error {
	q.filling.items = append(q.filling.items, item{context: c})
	return nil
}

// flush lets the sink have what was queued so far. It waits while the queue is
// full, and returns the sink's error.
func (q *queue) flush() error {
	if len(q.filling.items) == 0 {
		select {
		case <-q.refused:
			return q.err
		default:
			return nil
		}
	}
	select {
	case <-q.refused:
		return q.err
	case q.full <- q.filling:
		q.filling = q.empty()
		return nil
	}
}

// backlog tells whether the sink has not had everything that was flushed.
func (q *queue) backlog() bool { return len(q.full) > 0 }

// close waits until the sink has had everything, or has refused.
func (q *queue) close() error {
	_ = q.flush()
	close(q.full)
	<-q.ended
	return q.err
}

// pass is the sink's goroutine.
func (q *queue) pass() {
	defer close(q.ended)
	for b := range q.full {
		if err := b.give(q.sink); err != nil {
			q.err = err
			close(q.refused)
			return
		}
		b.bytes, b.items = b.bytes[:0], b.items[:0]
		select {
		case q.spare <- b:
		default:
		}
	}
}

func (b *batch) give(sink decoder.Sink) error {
	at := 0
	for i, it := range b.items {
		if it.context != nil {
			b.items[i].context = nil // the batch is kept longer
			if err := sink.Context(it.context); err != nil {
				return err
			}
			continue
		}
		if err := sink.Record(b.bytes[at:it.end]); err != nil {
			return err
		}
		at = it.end
	}
	return nil
}
