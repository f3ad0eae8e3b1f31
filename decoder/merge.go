// SPDX-License-Identifier: Apache-2.0

// Several recordings as one: what each tells, in the order of time.

package decoder

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// Recording is a recording to be told with others, or alone. Each is stitched
// by itself, so that trails, namespaces and kernel addresses of one are never
// taken for another's.
type Recording struct {
	In io.Reader
	// Then are the parts that follow, if In is a part of a recording. See Parts.
	Then []io.Reader
	// Options of its stitcher. What to emit is for Merge to say.
	Options Options
	// Drops: tell drops instead of journeys, also those in normal use, and what
	// DropKinds goes by, the stream's time.
	Drops bool

	// Contexts, if set, sees each context before what is told of it.
	Contexts Sink

	// What is known once it was read.
	Result   ReplayResult
	Before   []ReplayResult // of the parts before the last one that was read; Result is that one's
	Err      error          // why it could not be read to its end, as Replay says it
	Node     string         // of its session
	From, To WallTime       // of its first and its last record; 0: it has none
	Status   *Status

	from, to uint64 // boot clock ns
}

// Told is one thing that a recording tells: one of the fields is set.
type Told struct {
	Journey *Journey
	Drop    *Drop
	Status  *Status
	Clock   WallTime // the recording came this far

	from WallTime // with Clock: nothing that began earlier comes behind it
}

// Time is when it began.
func (t Told) Time() WallTime {
	switch {
	case t.Journey != nil:
		return t.Journey.Start
	case t.Drop != nil:
		return t.Drop.Time
	case t.Status != nil:
		return t.Status.Time
	}
	return t.Clock
}

// Merge replays recordings side by side and gives what they tell in the order
// of time, by each node's own wall clock; at the same time, in the order of
// recordings. Of each it keeps in memory what one replay does.
//
// Recordings of nodes with different names keep these. Of several with the same
// name the second one's journeys have ids that begin with NAME~2, the third
// one's with NAME~3: a trail in one has nothing to do with that of the same
// number in another. A packet that two of them recorded is told twice.
//
// A recording that cannot be read to its end has Err set and tells what came
// before; if one fails before it told anything, nothing at all is told.
func Merge(recordings []*Recording) iter.Seq[Told] {
	nodes := map[string][]*Recording{}
	if len(recordings) == 1 {
		return func(yield func(Told) bool) { recordings[0].tell(nodes, yield) }
	}
	return func(yield func(Told) bool) {
		fronts := make([]front, len(recordings))
		failed := false
		for i, r := range recordings {
			f := &fronts[i]
			var stop func()
			f.next, stop = iter.Pull(func(yield func(Told) bool) { r.tell(nodes, yield) })
			defer stop()
			f.advance()
			failed = failed || !f.ok && r.Err != nil
		}
		for !failed {
			first := -1
			for i := range fronts {
				if fronts[i].ok && (first < 0 || fronts[i].at < fronts[first].at) {
					first = i
				}
			}
			if first < 0 || !yield(fronts[first].told) {
				return
			}
			fronts[first].advance()
		}
	}
}

// front is the next thing that a recording tells; ok: there is one.
type front struct {
	told Told
	at   WallTime
	ok   bool
	next func() (Told, bool)
}

func (f *front) advance() {
	f.told, f.ok = f.next()
	switch {
	case f.told.Clock != 0:
		f.at = f.told.from
	case f.told.Status == nil: // which comes right behind what it follows
		f.at = f.told.Time()
	}
}

// errEnough ends a replay whose reader wants no more.
var errEnough = errors.New("enough")

// tell replays r. nodes are the recordings by node, so far.
func (r *Recording) tell(nodes map[string][]*Recording, yield func(Told) bool) {
	enough := false
	say := func(t Told) {
		if !enough {
			enough = !yield(t)
		}
	}
	o := r.Options
	o.Emit, o.EmitDrop, o.EmitNormal, o.EmitClock = nil, nil, nil, nil
	var s *Stitcher
	if r.Drops {
		o.EmitDrop = func(d *Drop) { say(Told{Drop: d}) }
		o.EmitNormal = o.EmitDrop
		o.EmitClock = func(t WallTime) { say(Told{Clock: t, from: s.wall(s.earliest())}) }
	} else {
		o.Emit = func(j *Journey) { say(Told{Journey: j}) }
	}
	o.EmitStatus = func(s *Status) { say(Told{Status: s}) }
	s = NewStitcher(o)
	s.idNode = func(node string) string { return idNode(nodes, r, node) }
	r.Result, r.Err = Replay(r.In, &telling{r, s, &enough})
	for _, in := range r.Then {
		if r.Err != nil {
			break
		}
		r.Before = append(r.Before, r.Result)
		r.Result, r.Err = Replay(in, &continued{Sink: &telling{r, s, &enough}})
	}
	if errors.Is(r.Err, errEnough) {
		r.Err = nil
	}
	r.Node = s.world.session.Node
	if r.from != 0 {
		r.From, r.To = s.wall(r.from), s.wall(r.to)
	}
	if !enough {
		s.Flush()
	}
	r.Status = s.Status()
}

// idNode is what the ids of r begin with if its node's name is node.
func idNode(nodes map[string][]*Recording, r *Recording, node string) string {
	for i, other := range nodes[node] {
		if other != r {
			continue
		}
		if i == 0 {
			return node
		}
		return fmt.Sprintf("%s~%d", node, i+1)
	}
	nodes[node] = append(nodes[node], r)
	return idNode(nodes, r, node)
}

// telling is the stitcher of a recording. It ends the replay when its reader
// has enough, and keeps when the recording was made.
type telling struct {
	r      *Recording
	s      *Stitcher
	enough *bool
}

func (t *telling) Record(raw []byte) error {
	if err := t.s.Record(raw); err != nil {
		return err
	}
	if at := t.s.rec.TimeNs; t.r.from == 0 || at < t.r.from {
		t.r.from = at
	}
	t.r.to = max(t.r.to, t.s.rec.TimeNs)
	return t.end()
}

func (t *telling) Context(c *Context) error {
	if t.r.Contexts != nil {
		if err := t.r.Contexts.Context(c); err != nil {
			return err
		}
	}
	if err := t.s.Context(c); err != nil {
		return err
	}
	if c.Session != nil {
		t.s.idStart() // names are given in the order of recordings
	}
	return t.end()
}

func (t *telling) end() error {
	if *t.enough {
		return errEnough
	}
	return nil
}

// Overlaps tells whether r and o, both read, are of one node and the same time:
// then a packet may be told by both.
func (r *Recording) Overlaps(o *Recording) bool {
	return r.Node == o.Node && r.From != 0 && o.From != 0 && r.From <= o.To && o.From <= r.To
}
