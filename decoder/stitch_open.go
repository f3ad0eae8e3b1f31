// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"slices"

	"waymark/bpf"
)

// openJourney is a journey that may still get records. The lists it is in are linked
// through it, so filing a record allocates nothing once the memory is warm.
type openJourney struct {
	root        uint64 // trail
	loose       uint64 // number of a journey without a trail; else 0
	start, last uint64 // ns: first record; the stream's time at the latest one
	events      []event
	data        []byte // of all events: hook parts and snapshots
	trails      []trailState
	live        int // trails that have not ended
	incomplete  bool
	notes       []string

	links   [2]struct{ prev, next *openJourney }
	waitsIn *list[byQuiet]
}

// event is one record as it is kept.
type event struct {
	rec  bpf.Record
	view *view  // of rec's namespace when the record came
	data uint32 // offset in openJourney.data of rec.ExtLen bytes of the hook's and rec.SnapLen of the packet
}

// trailState is one packet of a journey: the root or a copy.
type trailState struct {
	id, parent, skb uint64
	ended           bool
	unseen          bool   // it ended, for its memory was reused: nothing told of it
	endedBy         uint64 // ns: when at the latest, if ended
}

// add keeps a record; false: the journey is full.
func (o *openJourney) add(r *bpf.Record, ext, snap []byte, v *view) bool {
	if len(o.events) >= maxEvents {
		o.cut()
		return false
	}
	o.events = append(o.events, event{rec: *r, view: v, data: uint32(len(o.data))})
	o.data = append(append(o.data, ext...), snap...)
	return true
}

// endTrail notes that a packet of o ended at t or before; seen: a record said so.
func (o *openJourney) endTrail(trail, t uint64, seen bool) {
	for i := range o.trails {
		if tr := &o.trails[i]; tr.id == trail && !tr.ended {
			tr.ended, tr.unseen, tr.endedBy = true, !seen, t
			o.live--
		}
	}
}

// endsSeen tells whether the end of every packet of o was told.
func (o *openJourney) endsSeen() bool {
	return len(o.trails) > 0 && !slices.ContainsFunc(o.trails, func(t trailState) bool { return !t.ended || t.unseen })
}

// inQueue tells whether the packet was last seen to begin to wait in a queue.
func (o *openJourney) inQueue() bool {
	return o.events[len(o.events)-1].rec.Hook == uint16(bpf.HookQueueEnter)
}

// until is up to when lost records can have been o's: a packet whose end was not
// seen may have had more for as long as its journey stays open.
func (o *openJourney) until(opt *Options) uint64 {
	linger := uint64(opt.Linger)
	if o.inQueue() {
		linger = uint64(opt.Queued)
	}
	last := o.events[len(o.events)-1].rec.TimeNs
	t := last
	for i := range o.trails {
		tr := &o.trails[i]
		if tr.ended {
			t = max(t, tr.endedBy)
		} else {
			t = max(t, last+linger)
		}
	}
	return t
}

// cut marks a journey of which not everything is kept.
func (o *openJourney) cut() {
	o.incomplete = true
	o.note("cut off: more records than waymark keeps of one packet")
}

func (o *openJourney) note(n string) {
	if !slices.Contains(o.notes, n) {
		o.notes = append(o.notes, n)
	}
}

func (o *openJourney) snapshot(e *event) []byte {
	at := e.data + uint32(e.rec.ExtLen)
	return o.data[at : at+uint32(e.rec.SnapLen)]
}

// ext is what e's hook adds to a record.
func (o *openJourney) ext(e *event) []byte { return o.data[e.data : e.data+uint32(e.rec.ExtLen)] }

func (o *openJourney) key() sortKey { return sortKey{o.start, o.root} }

// listKind says through which links a list runs and whether it is sorted.
type listKind interface {
	link() int
	sorted() bool
}

type (
	byStart struct{}
	byQuiet struct{}
)

func (byStart) link() int    { return 0 }
func (byStart) sorted() bool { return true }
func (byQuiet) link() int    { return 1 }
func (byQuiet) sorted() bool { return false }

// list is a doubly linked list through openJourney.links.
type list[K listKind] struct {
	front, back *openJourney
}

// push appends o, in a sorted list at its place, which is nearly always the end.
func (l *list[K]) push(o *openJourney) {
	var k K
	i := k.link()
	after := l.back
	for k.sorted() && after != nil && o.key().less(after.key()) {
		after = after.links[i].prev
	}
	o.links[i].prev = after
	if after == nil {
		o.links[i].next, l.front = l.front, o
	} else {
		o.links[i].next, after.links[i].next = after.links[i].next, o
	}
	if n := o.links[i].next; n != nil {
		n.links[i].prev = o
	} else {
		l.back = o
	}
}

func (l *list[K]) remove(o *openJourney) {
	var k K
	i := k.link()
	p, n := o.links[i].prev, o.links[i].next
	if p != nil {
		p.links[i].next = n
	} else {
		l.front = n
	}
	if n != nil {
		n.links[i].prev = p
	} else {
		l.back = p
	}
	o.links[i].prev, o.links[i].next = nil, nil
}

// fix puts o at its new place after its key changed.
func (l *list[K]) fix(o *openJourney) {
	l.remove(o)
	l.push(o)
}

// recentTrails remembers the last maxRecent trails whose journey was closed
// without seeing their end: a packet may wait longer in a queue than waymark
// does.
type recentTrails struct {
	root map[uint64]uint64
	ring []uint64
	at   int
}

func newRecentTrails() recentTrails {
	return recentTrails{root: make(map[uint64]uint64, maxRecent), ring: make([]uint64, maxRecent)}
}

func (r *recentTrails) add(trail, root uint64) {
	delete(r.root, r.ring[r.at])
	r.ring[r.at] = trail
	r.root[trail] = root
	r.at = (r.at + 1) % len(r.ring)
}

func (r *recentTrails) find(trail uint64) (root uint64, ok bool) {
	root, ok = r.root[trail]
	return root, ok
}
