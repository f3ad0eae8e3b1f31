// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"strconv"
	"time"

	"waymark/bpf"
)

// Defaults of Options.
const (
	DefaultLinger  = 500 * time.Millisecond
	DefaultQueued  = 2 * time.Second
	DefaultSettle  = 100 * time.Millisecond // two ticks of the tracer's clock: a loss is told before the journey is
	DefaultMaxOpen = 65536
)

// What one journey may hold. A packet that is flooded, copied and queued on its
// way stays far below; a broken stream must not eat the memory.
const (
	maxEvents = 4096
	maxTrails = 256
	maxRecent = 4096 // silent trails remembered after their journey was closed
)

// Options of a Stitcher. The zero value works and emits nothing.
type Options struct {
	// Emit gets each finished journey, ordered by start, then trail. It may
	// keep the journey.
	Emit func(*Journey)
	// EmitDrop gets each loss, in the order of the journeys. If Emit is nil,
	// the session's limit counts losses.
	EmitDrop func(*Drop)
	// EmitNormal gets, likewise, each packet that the kernel freed through its drop
	// path in normal use, with Normal saying why that is no loss.
	EmitNormal func(*Drop)
	// EmitClock gets the stream's time when the stream tells it, after what was
	// due by then.
	EmitClock func(WallTime)
	// EmitStatus gets a status whenever the tracer leaves out more or less, to
	// keep to its budget.
	EmitStatus func(*Status)
	// LB explains balancers' decisions; nil: they are left out.
	LB LBDecider
	// Linger is how long (in stream time) a journey stays open after its last
	// record when its end was not seen. Default DefaultLinger. It also bounds
	// how long a finished journey waits for one that started earlier.
	Linger time.Duration
	// Queued is the same for a journey whose last record says that the packet
	// waits in a queue. Default DefaultQueued, and never less than Linger.
	Queued time.Duration
	// Settle is how long a journey stays open after its last trail ended, for
	// records of other CPUs that come late. Default DefaultSettle.
	Settle time.Duration
	// Mark and MarkMask leave out journeys that nowhere had a mark with
	// mark & MarkMask == Mark & MarkMask, besides those that the session leaves
	// out; a mask of 0 leaves out none.
	Mark, MarkMask uint32
	// Match leaves out journeys of which it takes no record's packet; nil takes
	// all. Packets without bytes in the stream are not asked about.
	Match func(PacketBytes) bool
	// Only leaves out journeys that are none of these: outcomes, or
	// OnlyIncomplete. Empty takes all.
	Only []string
	// Originals keeps each journey's packet as it was first seen.
	Originals bool
	// MaxOpen bounds the journeys in memory; the one that was quiet for longest
	// is cut off when there are more. Default DefaultMaxOpen.
	MaxOpen int
}

// Stats counts what a Stitcher did.
type Stats struct {
	Records   uint64 // records taken
	Lost      uint64 // records the kernel could not write
	Untracked uint64 // packets the kernel could not follow
	Open      int    // journeys not finished
	Evicted   uint64 // journeys cut off for MaxOpen
	Journeys  uint64 // journeys emitted
	Drops     uint64 // losses emitted
	Normal    uint64 // packets freed as drops in normal use, emitted
}

// Stitcher puts records together to journeys. It is a [Sink]; it is not safe
// for concurrent use.
type Stitcher struct {
	opt   Options
	world *world
	flows flowNames

	told     uint64 // losses until then were told; 0: the stream does not say
	now      uint64 // the newest time in the stream, ns
	rec      bpf.Record
	trails   map[uint64]*openJourney // open journeys by every trail in them
	skbs     map[uint64]uint64       // which trail an sk_buff address belongs to
	recent   recentTrails
	frags    fragmented
	why      explained
	sent     sentPackets
	serving  serving
	messages lostMessages
	order    list[byStart] // open journeys by start
	quiet    list[byQuiet] // open journeys by last record
	queued   list[byQuiet] // those of packets that wait in a queue, by last record
	ended    list[byQuiet] // open journeys whose trails have all ended, by last record
	free     []*openJourney
	branches []branch // of the journey that is being built; kept for the next
	wait     waiting  // finished, waiting for those that started earlier
	spare    spareJourneys
	loose    uint64 // journeys of records without a trail
	count    int    // open journeys
	stats    Stats
	handed   struct{ journeys, drops uint64 } // also those that Options leave out: what the session's limit counts
	done     bool

	// idNode is what ids begin with instead of the node's name; nil: nothing
	// else. See Merge.
	idNode func(node string) string
}

// NewStitcher returns a stitcher with no state.
func NewStitcher(o Options) *Stitcher {
	if o.Linger <= 0 {
		o.Linger = DefaultLinger
	}
	if o.Queued <= 0 {
		o.Queued = DefaultQueued
	}
	o.Queued = max(o.Queued, o.Linger)
	if o.Settle <= 0 {
		o.Settle = DefaultSettle
	}
	if o.MaxOpen <= 0 {
		o.MaxOpen = DefaultMaxOpen
	}
	return &Stitcher{
		opt:    o,
		world:  newWorld(),
		flows:  newFlowNames(),
		trails: map[uint64]*openJourney{},
		skbs:   map[uint64]uint64{},
		recent: newRecentTrails(),
		frags:  newFragmented(),
	}
}

// Done reports whether the session's limit is reached: nothing more will be
// emitted.
func (s *Stitcher) Done() bool { return s.done }

// Stats returns the counters.
func (s *Stitcher) Stats() Stats {
	st := s.stats
	st.Open = s.count
	return st
}

// Status is the counters as a line of output, at the stream's present time.
func (s *Stitcher) Status() *Status {
	b := &s.world.budget.now
	return &Status{
		Type: "status", Time: s.wall(s.now), Records: s.stats.Records, Lost: s.stats.Lost, Untracked: s.stats.Untracked,
		Tracked: s.count, Evicted: s.stats.Evicted, Journeys: s.stats.Journeys, Normal: s.stats.Normal,
		CostPct: b.Cost, Budget: b.Limit, Shed: b.Shed, OneIn: b.OneIn, SampledOut: b.SampledOut,
	}
}

// Context takes one context. It never fails.
func (s *Stitcher) Context(c *Context) error {
	if s.done || c == nil {
		return nil
	}
	if c.Budget != nil {
		s.world.budget.forget(s.oldest())
	}
	s.world.apply(c)
	if c.Clock != nil {
		s.told = max(s.told, c.Clock.Told)
	}
	if l := c.Loss; l != nil {
		s.world.forgetLosses(s.oldest())
		if l.Kind == "untracked" {
			s.stats.Untracked += l.Count
		} else {
			s.stats.Lost += l.Count
		}
	}
	s.advance(c.Time)
	if c.Budget != nil && s.opt.EmitStatus != nil {
		s.opt.EmitStatus(s.Status())
	}
	if c.Clock != nil && s.opt.EmitClock != nil {
		s.opt.EmitClock(s.wall(s.now))
	}
	return nil
}

// Record takes one raw record. It fails if raw is not a whole record.
func (s *Stitcher) Record(raw []byte) error {
	if s.done {
		return nil
	}
	snap, err := s.rec.Decode(raw)
	if err != nil {
		return fmt.Errorf("stitching: %w", err)
	}
	s.stats.Records++
	if s.take(&s.rec, s.rec.Ext(raw), snap) && s.count > s.opt.MaxOpen {
		s.evict()
	}
	s.advance(s.rec.TimeNs)
	return nil
}

// earliest is the start of the first journey open or waiting, or now.
func (s *Stitcher) earliest() uint64 {
	t := s.now
	if o := s.order.front; o != nil {
		t = min(t, o.start)
	}
	if len(s.wait.heap) > 0 {
		t = min(t, s.wait.heap[0].seq.start)
	}
	return t
}

// oldest is where a journey that is still to be told may have begun.
func (s *Stitcher) oldest() uint64 {
	t := s.earliest()
	// A loss reaches that far: see markLosses. Records may come out of order.
	return t - min(t, uint64(s.opt.Linger+s.opt.Settle))
}

// take files the record under its journey and reports whether that is new.
func (s *Stitcher) take(r *bpf.Record, ext, snap []byte) bool {
	s.frags.note(r)
	if s.serving.note(r) || s.messages.note(r, s.world) {
		s.world.changes++
	}
	if r.Hook == uint16(bpf.HookSocketReceive) {
		s.world.heard(r, ext)
	}
	o, fresh := s.journey(r)
	if o == nil {
		return false
	}
	if !o.add(r, ext, snap, s.world.at(r.Netns)) {
		return false
	}
	if s.opt.Emit != nil {
		s.sent.note(o, r)
	}
	if r.Flags&bpf.FlagEnd != 0 {
		o.endTrail(r.Trail, r.TimeNs, true)
	}
	s.touch(o, r.TimeNs)
	return fresh
}

// journey finds or opens the journey a record belongs to; nil: the record
// tells nothing anybody waits for.
func (s *Stitcher) journey(r *bpf.Record) (o *openJourney, fresh bool) {
	if r.Trail == 0 {
		if r.Hook != uint16(bpf.HookKfreeSkb) {
			return nil, false
		}
		s.loose++
		o = s.open(r)
		o.loose = s.loose
		return o, true
	}
	o = s.trails[r.Trail]
	if r.Hook == uint16(bpf.HookSkbClone) || r.Hook == uint16(bpf.HookSkbSegment) {
		return s.adopt(o, r)
	}
	if o != nil {
		return o, false
	}
	silent, was := s.recent.find(r.Trail)
	if was && (r.Hook == uint16(bpf.HookConsumeSkb) || r.Hook == uint16(bpf.HookKfreeSkbmem)) {
		return nil, false // the late end of a journey that is told
	}
	freeOnly := r.Hook == uint16(bpf.HookConsumeSkb) || r.Hook == uint16(bpf.HookKfreeSkbmem)
	if freeOnly && r.Flags&bpf.FlagStart == 0 {
		return nil, false
	}
	o = s.open(r)
	s.join(o, r)
	switch {
	case was:
		o.incomplete = true // here: its first hops are told already
		o.note(fmt.Sprintf("continues %s after a silence", s.id(silent)))
	case r.Flags&bpf.FlagStart == 0:
		o.incomplete = true
		o.note("its first record was not seen")
	}
	return o, true
}

// adopt makes a copy or a segment part of its parent's journey. o
// is the journey the copy's own trail has by now, if records came out of order.
func (s *Stitcher) adopt(o *openJourney, r *bpf.Record) (*openJourney, bool) {
	p := s.trails[r.Parent]
	switch {
	case p == nil && o != nil, p != nil && p == o:
		return o, false
	case p == nil && o == nil:
		// The parent's journey is over or was never seen: the copy is on its own.
		o = s.open(r)
		s.join(o, r)
		return o, true
	case o != nil && o.root == r.Trail && len(o.trails)+len(p.trails) <= maxTrails && len(o.events)+len(p.events) <= maxEvents:
		o.trails[0].parent = r.Parent // the root's own
		s.merge(p, o)
		return p, false
	case o != nil:
		return o, false
	case len(p.trails) >= maxTrails:
		p.cut()
		return nil, false
	}
	s.join(p, r)
	return p, false
}

// join puts the trail that r is the first record of into a journey. If another
// trail had the sk_buff, that one has ended unseen: addresses are reused at
// once.
func (s *Stitcher) join(o *openJourney, r *bpf.Record) {
	o.trails = append(o.trails, trailState{id: r.Trail, parent: r.Parent, skb: r.Skb})
	o.live++
	s.trails[r.Trail] = o
	if r.Skb == 0 {
		return
	}
	if before, ok := s.skbs[r.Skb]; ok && before != r.Trail {
		if b := s.trails[before]; b != nil {
			b.endTrail(before, r.TimeNs, false)
			s.place(b)
		}
	}
	s.skbs[r.Skb] = r.Trail
}

// merge moves the events of a copy's own journey into its parent's.
func (s *Stitcher) merge(p, o *openJourney) {
	s.unlink(o)
	base := uint32(len(p.data))
	p.data = append(p.data, o.data...)
	for _, e := range o.events {
		e.data += base
		p.events = append(p.events, e)
	}
	for _, t := range o.trails {
		p.trails = append(p.trails, t)
		if !t.ended {
			p.live++
		}
		s.trails[t.id] = p
	}
	for _, n := range o.notes {
		p.note(n)
	}
	p.start = min(p.start, o.start)
	s.order.fix(p)
	s.release(o)
}

// touch notes that o got a record of time t.
func (s *Stitcher) touch(o *openJourney, t uint64) {
	s.now = max(s.now, t)
	o.last = s.now
	if t < o.start {
		o.start = t
		s.order.fix(o)
	}
	s.place(o)
}

// place puts o at the end of the list it now waits in.
func (s *Stitcher) place(o *openJourney) {
	if o.waitsIn != nil {
		o.waitsIn.remove(o)
	}
	switch {
	case o.live <= 0:
		o.waitsIn = &s.ended
	case o.inQueue():
		o.waitsIn = &s.queued
	default:
		o.waitsIn = &s.quiet
	}
	o.waitsIn.push(o)
}

// advance moves the clock and finishes what is due.
func (s *Stitcher) advance(t uint64) {
	s.now = max(s.now, t)
	for o := s.ended.front; o != nil && o.last+uint64(s.opt.Settle) < s.now; o = s.ended.front {
		s.close(o, true)
	}
	for o := s.quiet.front; o != nil && o.last+uint64(s.opt.Linger) < s.now; o = s.quiet.front {
		s.close(o, true)
	}
	for o := s.queued.front; o != nil && o.last+uint64(s.opt.Queued) < s.now; o = s.queued.front {
		s.close(o, true)
	}
	s.emit(false)
}

// evict cuts off the journey that was quiet for longest.
func (s *Stitcher) evict() {
	o := s.ended.front
	if o == nil {
		if o = s.quiet.front; o == nil {
			o = s.queued.front
		}
		o.incomplete = true
		o.note("cut off: more packets at once than waymark may keep in memory")
		s.stats.Evicted++
	}
	s.close(o, false)
}

// Flush finishes every journey: the stream is over.
func (s *Stitcher) Flush() {
	for o := s.order.front; o != nil && !s.done; o = s.order.front {
		s.close(o, s.now >= o.last+uint64(s.opt.Settle))
	}
	s.emit(true)
}

// open starts a journey with record r as its first.
func (s *Stitcher) open(r *bpf.Record) *openJourney {
	var o *openJourney
	if n := len(s.free); n > 0 {
		o, s.free = s.free[n-1], s.free[:n-1]
	} else {
		o = new(openJourney)
	}
	o.root, o.start, o.last = r.Trail, r.TimeNs, max(s.now, r.TimeNs)
	s.order.push(o)
	s.count++
	return o
}

// close turns o into a journey. settled: enough time has passed that silence
// means an end.
func (s *Stitcher) close(o *openJourney, settled bool) {
	s.unlink(o)
	for i := range o.trails {
		t := &o.trails[i]
		delete(s.trails, t.id)
		if t.skb != 0 && s.skbs[t.skb] == t.id {
			delete(s.skbs, t.skb)
		}
		if !t.ended {
			s.recent.add(t.id, o.root)
		}
	}
	j := s.build(o, settled)
	j.closed = s.now
	s.wait.push(j)
	s.release(o)
}

// unlink takes o out of every list.
func (s *Stitcher) unlink(o *openJourney) {
	s.order.remove(o)
	if o.waitsIn != nil {
		o.waitsIn.remove(o)
		o.waitsIn = nil
	}
	s.count--
}

// release keeps o's memory for the next journey.
func (s *Stitcher) release(o *openJourney) {
	const spare = 1024 // journeys kept for reuse
	if len(s.free) >= spare || cap(o.events) > 64 {
		return
	}
	clear(o.events)
	*o = openJourney{events: o.events[:0], data: o.data[:0], trails: o.trails[:0]}
	s.free = append(s.free, o)
}

func (s *Stitcher) id(trail uint64) string {
	return s.idStart() + "-" + strconv.FormatUint(trail, 10)
}

// idStart is what the ids of journeys begin with, before the dash.
func (s *Stitcher) idStart() string {
	if s.idNode != nil {
		return s.idNode(s.world.session.Node)
	}
	return s.world.session.Node
}

// wall turns boot clock ns into wall clock.
func (s *Stitcher) wall(boot uint64) WallTime {
	return WallTime(int64(boot) + s.world.session.WallOffset)
}
