// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

// What the sink is told of namespaces: all of it when the first record comes
// from one, then every change.

import (
	"errors"
	"reflect"
	"slices"
	"time"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/tracer/place"
)

// told is what the sink knows of a namespace.
type told struct {
	ns       place.Namespace
	state    *place.State // as last read; told when a record needs it
	active   bool         // a record came from there, so the sink has all of it
	devices  map[uint32]decoder.Device
	balancer *decoder.Balancer
	queues   decoder.Queues
	sought   bool                // a balancer was looked for before any record came from there
	queuesAt uint64              // boot time of the last look at queues and balancer
	looks    looks               // at them because of drops
	asked    chan balancerAnswer // nil: no question to the balancer is open
	silent   bool                // it did not answer the last one in time
	lost     toldLost
}

// activate tells the sink everything about a namespace that a record came from.
func (s *stream) activate(inode uint32) error {
	t := s.places[inode]
	if t == nil {
		t = &told{ns: s.lookup(inode)}
		s.places[inode] = t
	}
	t.active = true
	t.devices = map[uint32]decoder.Device{0: {}}
	ns := t.ns
	c := &decoder.Context{Namespace: &decoder.Namespace{Inode: ns.Inode, Name: ns.Name, Pod: ns.Pod}}
	if err := s.context(c); err != nil {
		return err
	}
	if t.state == nil {
		return s.reread(t)
	}
	if err := s.tell(t, nil, t.state); err != nil {
		return err
	}
	return s.tellBalancer(t)
}

// lookup finds a namespace that the tracer was not told to watch: a drop can
// be anywhere.
func (s *stream) lookup(inode uint32) place.Namespace {
	all, err := place.Discover()
	if err == nil {
		for _, ns := range all {
			if ns.Inode == inode {
				return ns
			}
		}
	}
	return place.Namespace{Inode: inode, Name: nameless(inode)}
}

// reread reads a namespace again, because a record told of something unknown.
func (s *stream) reread(t *told) error {
	st, err := place.Read(t.ns)
	if err != nil {
		// It went away. Its name is all that is left.
		s.opts.Log.Debug().Err(err).Msg("a namespace could not be read")
		return nil
	}
	if err := s.changed(t, st); err != nil {
		return err
	}
	return s.tellBalancer(t)
}

// changed takes a new state of a namespace and tells the sink the differences.
func (s *stream) changed(t *told, st *place.State) error {
	was := t.state
	t.state = st
	if !t.active {
		return nil
	}
	return s.tell(t, was, st)
}

func (s *stream) tell(t *told, was, st *place.State) error {
	present := map[uint32]bool{0: true}
	for i := range st.Devices {
		d := st.Devices[i]
		present[d.Index] = true
		if known, ok := t.devices[d.Index]; ok && reflect.DeepEqual(known, d) {
			continue
		}
		t.devices[d.Index] = d
		if err := s.context(&decoder.Context{Device: &d}); err != nil {
			return err
		}
	}
	for index, d := range t.devices {
		if present[index] {
			continue
		}
		delete(t.devices, index)
		s.recent = [len(s.recent)]deviceKey{}
		d.Removed = true
		if err := s.context(&decoder.Context{Device: &d}); err != nil {
			return err
		}
	}
	if was == nil || !reflect.DeepEqual(was.Routing, st.Routing) {
		r := st.Routing
		r.Read = st.At
		if err := s.context(&decoder.Context{Routing: &r}); err != nil {
			return err
		}
	}
	return s.tellQueues(t, st.Queues, was == nil)
}

func (s *stream) tellQueues(t *told, q decoder.Queues, first bool) error {
	if !first && sameListeners(t.queues, q) {
		return nil
	}
	t.queues = q
	return s.context(&decoder.Context{Queues: &q})
}

// sameListeners compares who listens and whether packets wait, not the counters,
// which always change.
func sameListeners(a, b decoder.Queues) bool {
	return slices.EqualFunc(a.Queues, b.Queues, func(a, b decoder.Queue) bool {
		return a.Number == b.Number && a.PortID == b.PortID && (a.Waiting > 0) == (b.Waiting > 0)
	})
}

func (s *stream) tellBalancer(t *told) error {
	if s.opts.Balancer == nil {
		return nil
	}
	b, err := s.askBalancer(t)
	if err != nil {
		s.opts.Log.Debug().Err(err).Str("netns", t.ns.Name).Msg("the balancer's state could not be read")
		return nil
	}
	if b == nil {
		return nil
	}
	b.Netns = t.ns.Inode
	if t.balancer != nil && reflect.DeepEqual(t.balancer, b) {
		return nil
	}
	t.balancer = b
	return s.context(&decoder.Context{Balancer: b})
}

// balancerPatience is how long the stream waits for a balancer's state, once. One
// that is stopped or stuck does not answer, and must not hold up what is told of it.
const balancerPatience = time.Second

// balancerAnswer is what a balancer said of its state.
type balancerAnswer struct {
	state *decoder.Balancer
	err   error
}

var errNoAnswer = errors.New("it has not answered yet")

// askBalancer asks a namespace's balancer for its state, one question at a time:
// the answer to one that took too long is taken with the next.
func (s *stream) askBalancer(t *told) (*decoder.Balancer, error) {
	patience := time.Duration(0)
	if !t.silent {
		patience = balancerPatience
	}
	if t.asked == nil {
		answer := make(chan balancerAnswer, 1)
		t.asked = answer
		ask, ns := s.opts.Balancer, t.ns
		go func() {
			b, err := ask(ns)
			answer <- balancerAnswer{b, err}
		}()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case a := <-t.asked:
		t.asked, t.silent = nil, a.err != nil
		return a.state, a.err
	case <-timer.C:
		t.silent = true
		return nil, errNoAnswer
	}
}

// lookForBalancer tells of a namespace with a balancer though no record came from
// there: what is lost elsewhere is explained with the addresses it serves.
func (s *stream) lookForBalancer(t *told) error {
	if t.active || t.sought || s.opts.Balancer == nil {
		return nil
	}
	t.sought = true
	if b, err := s.askBalancer(t); err != nil || b == nil {
		return nil
	}
	return s.activate(t.ns.Inode)
}

// refresh looks at what changes without a notification: queues and balancers
// of the namespaces that records came from.
func (s *stream) refresh() error {
	for _, t := range s.places {
		if !t.active || t.ns.Path == "" {
			continue
		}
		if err := s.refreshOne(t); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) refreshOne(t *told) error {
	t.queuesAt = bootTime()
	q, err := place.ReadQueues(t.ns)
	if err != nil {
		return nil // gone; the next scan takes it out
	}
	if err := s.tellQueues(t, q, false); err != nil {
		return err
	}
	return s.tellBalancer(t)
}

// looks bounds how often queues and balancer are looked at because one of them
// dropped a packet: a few at once, so that the first drops after a change are
// explained by it, and of a flood one each stateLookEvery.
type looks struct {
	spent int
	at    uint64 // boot time, ns: since when stateLookEvery is counted
}

const (
	stateLookEvery = 20 * time.Millisecond
	stateLooks     = 5
)

// take tells whether there is one left at t.
func (l *looks) take(t uint64) bool {
	if back := (t - min(t, l.at)) / uint64(stateLookEvery); back > 0 {
		l.spent = max(0, l.spent-int(min(back, stateLooks)))
		l.at = t
	}
	if l.spent == stateLooks {
		return false
	}
	l.spent++
	return true
}

// refreshQueue looks again at the queues and the balancer of a namespace where
// a queue dropped a packet, before that is told, if that was after the last look.
func (s *stream) refreshQueue(r *bpf.Record) error {
	t := s.places[r.Netns]
	if t == nil || t.ns.Path == "" || r.TimeNs < t.queuesAt || !t.looks.take(bootTime()) {
		return nil
	}
	return s.refreshOne(t)
}
