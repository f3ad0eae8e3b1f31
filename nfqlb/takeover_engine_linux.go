// SPDX-License-Identifier: Apache-2.0

package nfqlb

import "errors"

// Handover is an engine that has paused: every packet it received has its
// verdict, and those that come wait in the queues for whoever serves their
// sockets next. Either Done or Resume ends it.
type Handover struct {
	// Sockets are the queues' netlink sockets, from the first queue on. Until
	// Done or Resume they may be sent to another process; they stay the
	// engine's.
	Sockets []int

	taken chan bool
}

func newHandover(queues []*queue) *Handover {
	h := &Handover{taken: make(chan bool, 1)}
	for _, q := range queues {
		h.Sockets = append(h.Sockets, q.fd)
	}
	return h
}

// Done says that somebody else serves the queues now: Run returns.
func (h *Handover) Done() { h.taken <- true }

// Resume makes the engine serve the queues again.
func (h *Handover) Resume() { h.taken <- false }

// HandOver pauses an engine that runs. It fails if the engine has ended.
func (e *Engine) HandOver() (*Handover, error) {
	answer := make(chan *Handover, 1)
	select {
	case e.handover <- answer:
	case <-e.ended:
		return nil, errEngineEnded
	}
	select {
	case h := <-answer:
		return h, nil
	case <-e.ended:
		return nil, errEngineEnded
	}
}

var errEngineEnded = errors.New("the queues are not served any more")
