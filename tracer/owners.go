// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"time"

	"waymark/bpf"
	"waymark/decoder"
	"waymark/tracer/place"
)

const (
	lookEvery = time.Second // look for sockets' processes at most that often,
	lookShare = 20          // and for no more than that part of the time: 5 %
	waitLook  = time.Second // at most this long to wait for a look, before and after the trace
	maxWanted = 4096        // sockets that wait for a look
)

// owners finds the processes of the sockets that records tell of. Looking takes
// a while, so it happens beside the stream: journeys are told later than their
// last record, by when it is usually over.
type owners struct {
	found  map[uint64]decoder.Process // as last looked, by inode
	told   map[uint64]bool            // to the sink, or nobody has it
	wanted map[uint64]bool            // not found yet
	asked  map[uint64]bool            // wanted when the look began that is going on
	look   chan look
	last   time.Time     // when the last look began
	rest   time.Duration // until the next one may
}

// look is what was found, and how long it took.
type look struct {
	found map[uint64]decoder.Process
	took  time.Duration
}

func newOwners() *owners {
	return &owners{told: map[uint64]bool{}, wanted: map[uint64]bool{}}
}

// begin looks.
func (o *owners) begin() {
	o.asked, o.wanted = o.wanted, map[uint64]bool{}
	o.look, o.last = make(chan look, 1), time.Now()
	go func(done chan<- look, began time.Time) {
		found := place.SocketOwners()
		done <- look{found, time.Since(began)}
	}(o.look, o.last)
}

// needsOwner tells the sink whose socket a record is about, or wants that found.
func (s *stream) needsOwner(ext []byte) error {
	x, err := bpf.DecodeExt[bpf.SocketExt](ext)
	if err != nil || x.Inode == 0 || s.owners.told[x.Inode] {
		return nil
	}
	if _, ok := s.owners.found[x.Inode]; ok {
		return s.tellOwner(x.Inode)
	}
	if len(s.owners.wanted) < maxWanted {
		s.owners.wanted[x.Inode] = true
	}
	return nil
}

func (s *stream) tellOwner(inode uint64) error {
	s.owners.done(inode)
	p := s.owners.found[inode]
	return s.context(&decoder.Context{Process: &p})
}

// done ends the search for a socket's process, for as long as the reader of
// the stream keeps it.
func (o *owners) done(inode uint64) {
	if len(o.told) >= decoder.OwnersRetold {
		clear(o.told)
	}
	o.told[inode] = true
}

// lookForOwners takes what was found and looks again if something is wanted.
func (s *stream) lookForOwners(now time.Time) error {
	select {
	case l := <-s.owners.look: // never of a nil channel
		if err := s.foundOwners(l); err != nil {
			return err
		}
	default:
	}
	if s.owners.look == nil && len(s.owners.wanted) > 0 && now.Sub(s.owners.last) >= s.owners.rest {
		s.owners.begin()
	}
	return nil
}

// lastOwners looks for what is still wanted when there are no more records.
func (s *stream) lastOwners() error {
	if s.owners.look == nil && len(s.owners.wanted) > 0 {
		s.owners.begin()
	}
	return s.awaitOwners()
}

// awaitOwners waits a moment for a look that is going on.
func (s *stream) awaitOwners() error {
	if s.owners.look == nil {
		return nil
	}
	select {
	case l := <-s.owners.look:
		return s.foundOwners(l)
	case <-time.After(waitLook):
		return nil
	}
}

func (s *stream) foundOwners(l look) error {
	o := s.owners
	o.found, o.look, o.rest = l.found, nil, max(lookEvery, lookShare*l.took)
	for inode := range o.asked {
		o.wanted[inode] = true
	}
	for inode := range o.wanted {
		_, ok := o.found[inode]
		switch {
		case ok:
			delete(o.wanted, inode)
			if err := s.tellOwner(inode); err != nil {
				return err
			}
		case o.asked[inode]: // nobody has it
			delete(o.wanted, inode)
			o.done(inode)
		}
	}
	o.asked = nil
	return nil
}
