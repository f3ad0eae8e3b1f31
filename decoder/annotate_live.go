// SPDX-License-Identifier: Apache-2.0

// Annotated recordings of what happens now.

package decoder

import (
	"io"
	"sync"

	"waymark/decoder/pcapng"
)

// annotatorHeld is how much of the recording waits for journeys to end, in bytes.
// Beyond, packets are written without what is not known yet.
const annotatorHeld = 32 << 20

// Annotator is a Recorder that writes each packet when its journey is over, with
// what Annotate adds: half a second later, or two where packets wait in queues. Not
// for concurrent use.
type Annotator struct {
	rec *Recorder
	s   *Stitcher
	out *pcapng.Writer // of the goroutine that annotates

	last uint64 // latest record, boot clock ns

	limit  int // of held
	mu     sync.Mutex
	change sync.Cond
	held   []byte // recorded, not annotated
	told   []Told
	closed bool // nothing more is recorded
	ended  bool // annotating has ended
	err    error
}

// NewAnnotator returns an Annotator to out. o are its Stitcher's options; what to
// emit is for it to say. The caller closes it.
func NewAnnotator(out io.Writer, r RecorderOptions, o Options) *Annotator {
	return newAnnotator(out, r, o, annotatorHeld)
}

func newAnnotator(out io.Writer, r RecorderOptions, o Options, limit int) *Annotator {
	a := &Annotator{out: pcapng.NewWriter(out, 0), limit: limit}
	a.change.L = &a.mu
	a.rec = NewRecorder((*annotatorInput)(a), r)
	o.Emit = func(j *Journey) { a.tell(Told{Journey: j}) }
	o.EmitClock = func(t WallTime) { a.tell(Told{Clock: t, from: a.s.wall(a.settled())}) }
	a.s = NewStitcher(o)
	go func() {
		_, err := annotate((*annotatorOutput)(a), a.tells, a.out)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.ended, a.err = true, err
		a.change.Broadcast()
	}()
	return a
}

// Record implements Sink.
func (a *Annotator) Record(raw []byte) error {
	if err := a.rec.Record(raw); err != nil {
		return err
	}
	err := a.s.Record(raw)
	a.last = max(a.last, a.s.rec.TimeNs)
	return err
}

// settled is before which the journeys of all packets so far are told, in boot clock
// ns. The stream's time is no measure: when a trace begins, what the kernel recorded
// meanwhile comes behind contexts of a later time.
func (a *Annotator) settled() uint64 {
	t := a.last + 1
	if o := a.s.order.front; o != nil {
		t = min(t, o.start)
	}
	if w := a.s.wait.heap; len(w) > 0 {
		t = min(t, w[0].seq.start)
	}
	return t
}

// Context implements Sink.
func (a *Annotator) Context(c *Context) error {
	if err := a.rec.Context(c); err != nil {
		return err
	}
	return a.s.Context(c)
}

// Flush hands over what was recorded.
func (a *Annotator) Flush() error { return a.rec.Flush() }

// Close ends the recording and waits until it is written.
func (a *Annotator) Close() error {
	err := a.rec.Close()
	a.s.Flush()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.change.Broadcast()
	for !a.ended {
		a.change.Wait()
	}
	if a.err != nil {
		return a.err
	}
	return err
}

func (a *Annotator) tell(t Told) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(t)
}

// add is tell, with the lock.
func (a *Annotator) add(t Told) {
	if n := len(a.told); t.Clock != 0 && n > 0 && a.told[n-1].Clock != 0 {
		a.told[n-1] = t // a later time says all that an earlier one does
	} else {
		a.told = append(a.told, t)
	}
	a.change.Broadcast()
}

// tells gives what is told, when it is. Where too much is held it does not wait: a
// journey may be one that only what is behind can end.
func (a *Annotator) tells(yield func(Told) bool) {
	for {
		a.await(func() bool { return len(a.told) > 0 || len(a.held) > a.limit })
		told, closed := a.told, a.closed
		a.told = nil
		a.mu.Unlock()
		if len(told) == 0 {
			if closed {
				return
			}
			told = []Told{{Clock: 1, from: notNow}}
		}
		for _, t := range told {
			if !yield(t) {
				return
			}
		}
	}
}

// await returns, with the lock, when ready holds or nothing more can come. Who
// reads sees meanwhile all that is annotated.
func (a *Annotator) await(ready func() bool) {
	a.mu.Lock()
	if !ready() && !a.closed {
		a.mu.Unlock()
		_ = a.out.Flush() // its first error stays
		a.mu.Lock()
	}
	for !ready() && !a.closed {
		a.change.Wait()
	}
}

// annotatorInput takes what the Recorder writes.
type annotatorInput Annotator

func (i *annotatorInput) Write(b []byte) (int, error) {
	a := (*Annotator)(i)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held = append(a.held, b...)
	a.change.Broadcast()
	for len(a.held) > a.limit && !a.ended {
		a.change.Wait()
	}
	if a.ended && a.err != nil {
		return 0, a.err
	}
	return len(b), nil
}

// annotatorOutput gives it to Annotate.
type annotatorOutput Annotator

func (o *annotatorOutput) Read(b []byte) (int, error) {
	a := (*Annotator)(o)
	a.await(func() bool { return len(a.held) > 0 })
	defer a.mu.Unlock()
	if len(a.held) == 0 {
		return 0, io.EOF
	}
	n := copy(b, a.held)
	a.held = a.held[n:]
	a.change.Broadcast()
	return n, nil
}
