// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Exchanges in two parts, for what shows only in a connection that is open already,
// or in one that had a forerunner.

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// parted tells whether exchanges have two parts: two requests.
func (t Traffic) parted() bool { return t.Pause > 0 || t.Amid != "" || t.Again }

// interval is what lies between the two parts of all exchanges of one Send: a fault
// that is set when they have come so far, and time.
type interval struct {
	pause time.Duration
	set   func(context.Context) error // nil: no fault

	mu      sync.Mutex
	missing int // exchanges that have not come so far
	over    chan struct{}
	err     error // of set
}

// interval prepares the one of t. A fault that is set is mended before.
func (w *World) interval(ctx context.Context, t Traffic) (*interval, error) {
	v := &interval{pause: t.Pause, missing: t.Connections, over: make(chan struct{})}
	if t.Amid == "" {
		return v, nil
	}
	v.set = func(ctx context.Context) error { return w.Fault(ctx, t.Amid) }
	return v, w.Clear(ctx, t.Amid)
}

// arrive counts an exchange that has come so far, or ended before.
func (v *interval) arrive(ctx context.Context) {
	if v.set == nil {
		return
	}
	v.mu.Lock()
	v.missing--
	last := v.missing == 0
	v.mu.Unlock()
	if last {
		v.err = v.set(ctx)
		close(v.over)
	}
}

// wait waits for the second part.
func (v *interval) wait(ctx context.Context) error {
	if v.set != nil {
		select {
		case <-v.over:
		case <-ctx.Done():
			return ctx.Err()
		}
		if v.err != nil {
			return v.err
		}
	}
	select {
	case <-time.After(v.pause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askPart sends a request and reads until all of it is answered; the connection
// stays open.
func askPart(c net.Conn, request []byte) (Reply, error) {
	if _, err := c.Write(request); err != nil {
		return Reply{}, err
	}
	var total Reply
	lines := bufio.NewScanner(c)
	for total.Bytes < len(request) && lines.Scan() {
		r, err := ParseReply(lines.Text())
		if err != nil {
			return total, err
		}
		r.Bytes += total.Bytes
		total = r
	}
	if total.Bytes < len(request) {
		return total, endedBy(lines.Err())
	}
	return total, nil
}

// sameTarget is the reply of the second part, if the first one's target gave it.
func sameTarget(first, second Reply) error {
	if first.Target != second.Target {
		return fmt.Errorf("one connection was answered by %s and by %s", first.Target, second.Target)
	}
	return nil
}
