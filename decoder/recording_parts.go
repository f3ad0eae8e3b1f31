// SPDX-License-Identifier: Apache-2.0

// A recording in parts: files of bounded size, of which the old ones can be
// thrown away while it goes on.

package decoder

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// PartsOptions are choices of Parts.
type PartsOptions struct {
	RecorderOptions
	// Size is from how many bytes on a part is ended and the next one begun; 0:
	// never. A part is longer than that by no more than one record and what is
	// needed to close it; where the contexts that it begins with are more than half
	// of that, it is twice as long as they are.
	Size int64
	// Next opens the file of part n, which counts from 1. It is called before
	// anything is written to it, and after the part before was closed.
	Next func(n int) (io.WriteCloser, error)
}

// Parts is a Sink that writes a recording to one file after the other. Each is a
// recording by itself: it begins with the session and all that was told until then
// and still holds. A packet that is on its way while one part ends and another begins
// is in both; replayed together, they are as if there were one file.
type Parts struct {
	o       PartsOptions
	id      string
	part    int
	file    io.WriteCloser
	rec     *Recorder
	head    recordedHead
	before  RecorderStats // of the parts that are closed
	limit   int64         // of the part, in bytes
	records uint64        // of the part, to have one at least in each
	err     error
}

// NewParts returns Parts. The first file is opened for the first record or context.
func NewParts(o PartsOptions) *Parts {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it does not fail
	return &Parts{o: o, id: hex.EncodeToString(id[:]), head: newRecordedHead()}
}

// Record writes one raw record, to the next part if this one is full.
func (p *Parts) Record(raw []byte) error {
	if p.o.Size > 0 && p.records > 0 && p.err == nil && p.rec.out.Size() >= p.limit {
		p.err = p.next()
	}
	if p.rec == nil && p.err == nil {
		p.err = p.open()
	}
	if p.err != nil {
		return p.err
	}
	p.err = p.rec.Record(raw)
	if p.records++; p.records == 1 { // the contexts before it are written by now
		p.limit = max(p.o.Size, 2*p.rec.out.Size())
	}
	return p.err
}

// Context writes c.
func (p *Parts) Context(c *Context) error {
	if p.o.Size > 0 {
		if c.Session != nil {
			s := *c.Session
			s.Recording, s.Part = p.id, max(p.part, 1)
			c = &Context{Time: c.Time, Session: &s}
		}
		p.head.learn(c)
	}
	if p.rec == nil && p.err == nil {
		p.err = p.open()
	}
	if p.err != nil {
		return p.err
	}
	p.err = p.rec.Context(c)
	return p.err
}

// open begins the next part's file.
func (p *Parts) open() error {
	file, err := p.o.Next(p.part + 1)
	if err != nil {
		return err
	}
	p.part++
	p.file, p.rec, p.records, p.limit = file, NewRecorder(file, p.o.RecorderOptions), 0, p.o.Size
	return nil
}

// next ends a part and begins another with all that is known.
func (p *Parts) next() error {
	if err := p.closePart(); err != nil {
		return err
	}
	if err := p.open(); err != nil {
		return err
	}
	for _, c := range p.head.contexts(p.part) {
		if err := p.rec.Context(c); err != nil {
			return err
		}
	}
	p.before.Contexts -= p.rec.stats.Contexts // told before
	return nil
}

func (p *Parts) closePart() error {
	err := p.rec.Close()
	p.before = p.Stats()
	p.rec = nil
	return errors.Join(err, p.file.Close())
}

// Flush writes out what was gathered.
func (p *Parts) Flush() error {
	if p.err == nil && p.rec != nil {
		p.err = p.rec.Flush()
	}
	return p.err
}

// Close ends the last part and closes its file. Closing again does nothing.
func (p *Parts) Close() error {
	if p.file == nil || errors.Is(p.err, errRecorderClosed) {
		return nil
	}
	if p.rec != nil {
		err := p.closePart()
		if p.err == nil {
			p.err = err
		}
	}
	if p.err != nil {
		return p.err
	}
	p.err = errRecorderClosed
	return nil
}

// Stats counts what was recorded so far, in all parts: each record and context once,
// the bytes of all files, and the interfaces of each.
func (p *Parts) Stats() RecorderStats {
	s := p.before
	if p.rec != nil {
		now := p.rec.Stats()
		s.Records += now.Records
		s.Contexts += now.Contexts
		s.Bytes += now.Bytes
		s.Interfaces += now.Interfaces
	}
	return s
}

// maxHeadContexts bounds the contexts that a part begins with.
const maxHeadContexts = 1 << 17

// recordedHead is what a part begins with: of each thing the context that told of
// it last.
type recordedHead struct {
	session *Context
	at      map[headKey]int
	told    []*Context // nil: it is gone
	gone    int
}

// headKey is what a context is about. kind orders those at the head of a part as a
// live trace tells them.
type headKey struct {
	kind  headKind
	netns uint32
	x, y  uint64
}

type headKind uint8

const (
	headNone headKind = iota // of a moment: not repeated
	headNamespace
	headDevice
	headRouting
	headQueues
	headBalancer
	headSysctls
	headChains
	headIPVS
	headIPVSEntries
	headSymbol
	headReason
	headProcess
	headRule
	headBudget
	headKinds
)

func newRecordedHead() recordedHead { return recordedHead{at: map[headKey]int{}} }

// keyOf is what c is about; session and what is of a moment are headNone.
func keyOf(c *Context) headKey {
	switch {
	case c.Namespace != nil:
		return headKey{kind: headNamespace, netns: c.Namespace.Inode}
	case c.Device != nil:
		return headKey{kind: headDevice, netns: c.Device.Netns, x: uint64(c.Device.Index)}
	case c.Routing != nil:
		return headKey{kind: headRouting, netns: c.Routing.Netns}
	case c.Queues != nil:
		return headKey{kind: headQueues, netns: c.Queues.Netns}
	case c.Balancer != nil:
		return headKey{kind: headBalancer, netns: c.Balancer.Netns}
	case c.Sysctls != nil:
		return headKey{kind: headSysctls, netns: c.Sysctls.Netns}
	case c.Chains != nil:
		return headKey{kind: headChains, netns: c.Chains.Netns}
	case c.IPVS != nil:
		return headKey{kind: headIPVS, netns: c.IPVS.Netns}
	case c.IPVSEntries != nil:
		return headKey{kind: headIPVSEntries, netns: c.IPVSEntries.Netns}
	case c.Symbol != nil:
		return headKey{kind: headSymbol, x: c.Symbol.Addr}
	case c.Reason != nil:
		return headKey{kind: headReason, x: uint64(c.Reason.Number)}
	case c.Process != nil:
		return headKey{kind: headProcess, x: c.Process.Socket}
	case c.NetfilterRule != nil:
		r := c.NetfilterRule
		return headKey{kind: headRule, netns: r.Netns, x: r.TableHandle, y: r.Handle}
	case c.Budget != nil:
		return headKey{kind: headBudget}
	}
	return headKey{}
}

// learn takes what c tells.
func (h *recordedHead) learn(c *Context) {
	if c.Session != nil {
		h.session = c
		return
	}
	k := keyOf(c)
	if k.kind == headNone {
		return
	}
	i, known := h.at[k]
	switch {
	case c.Device != nil && c.Device.Removed:
		if known {
			delete(h.at, k)
			h.told[i] = nil
			h.gone++
			h.compact()
		}
	case known:
		h.told[i] = c
	case len(h.at) < maxHeadContexts:
		h.at[k] = len(h.told)
		h.told = append(h.told, c)
	}
}

// compact forgets the places of what is gone.
func (h *recordedHead) compact() {
	if h.gone < 64 || h.gone < len(h.told)/2 {
		return
	}
	kept := h.told[:0]
	for _, c := range h.told {
		if c != nil {
			h.at[keyOf(c)] = len(kept)
			kept = append(kept, c)
		}
	}
	clear(h.told[len(kept):])
	h.told, h.gone = kept, 0
}

// contexts are those that part begins with, the session first if there was one.
func (h *recordedHead) contexts(part int) []*Context {
	var all []*Context
	for kind := headNone + 1; kind < headKinds; kind++ {
		for _, c := range h.told {
			if c != nil && keyOf(c).kind == kind {
				all = append(all, c)
			}
		}
	}
	if h.session == nil {
		return all
	}
	s := *h.session.Session
	s.Part, s.Repeats = part, len(all)
	return append([]*Context{{Time: h.session.Time, Session: &s}}, all...)
}

// continued gives a Sink a part of a recording behind those before: without what
// they told already.
type continued struct {
	Sink
	begun bool
	skip  int // contexts
}

func (c *continued) Context(x *Context) error {
	switch {
	case !c.begun && x.Session != nil:
		c.begun, c.skip = true, x.Session.Repeats
		return nil
	case c.skip > 0:
		c.skip--
		return nil
	}
	return c.Sink.Context(x)
}

// errSessionRead ends a replay that has what it wants.
var errSessionRead = errors.New("session read")

// sessionReader is a Sink that takes the first context.
type sessionReader struct{ session *Session }

func (r *sessionReader) Record([]byte) error { return errSessionRead }

func (r *sessionReader) Context(c *Context) error {
	r.session = c.Session
	return errSessionRead
}

// ReadSession reads the session that a recording begins with; nil if it has none.
func ReadSession(in io.Reader) (*Session, error) {
	var r sessionReader
	if _, err := Replay(in, &r); err != nil && !errors.Is(err, errSessionRead) {
		return nil, fmt.Errorf("read the session: %w", err)
	}
	return r.session, nil
}
