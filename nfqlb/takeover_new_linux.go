// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Inheritance is a running balancer that this process is about to take over.
// The old process serves until Inherit, and without it after Close.
type Inheritance struct {
	First, Last uint16     // its queues
	Flows       []FlowSpec // in the order they were set

	conn   *net.UnixConn
	old    *json.Decoder
	queues []int
	others map[string]*os.File
}

// TakeOver asks the balancer in the calling thread's network namespace for all
// it has. It gives up when ctx ends. Without a balancer the error is
// ErrNoBalancer.
func TakeOver(ctx context.Context) (*Inheritance, error) {
	network, address, err := controlAddress()
	if err != nil {
		return nil, err
	}
	if network != "unix" {
		return nil, fmt.Errorf("only a unix control socket can hand a balancer over, NFQLB_FLOW_ADDRESS is a %s address", network)
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNoBalancer
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	i := &Inheritance{conn: conn.(*net.UnixConn), others: make(map[string]*os.File)}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	conn.SetDeadline(time.Now().Add(clientPatience))
	if err := i.ask(); err != nil {
		i.Close()
		return nil, fmt.Errorf("take the balancer over: %w", err)
	}
	return i, nil
}

func (i *Inheritance) ask() error {
	if _, err := trusted(i.conn); err != nil {
		return err
	}
	request, err := (&Command{Action: takeoverAction}).Encode()
	if err != nil {
		return err
	}
	if _, err := i.conn.Write(request); err != nil {
		return err
	}
	answer, fds, err := receiveDescriptors(i.conn, len(takeoverOK))
	if err != nil {
		return err
	}
	if answer != takeoverOK {
		closeAll(fds)
		rest, _ := io.ReadAll(io.LimitReader(i.conn, maxLine))
		return checkOK(append([]byte(answer), rest...))
	}
	i.old = json.NewDecoder(i.conn)
	var offer takeoverOffer
	if err = i.old.Decode(&offer); err == nil && (offer.Version != takeoverVersion || len(offer.Descriptors) != len(fds)) {
		err = fmt.Errorf("it speaks version %d and gives %d descriptors for %d names; start the balancer anew", offer.Version, len(fds), len(offer.Descriptors))
	}
	if err != nil {
		closeAll(fds)
		return err
	}
	i.First, i.Last, i.Flows = offer.First, offer.Last, offer.Flows
	for n, name := range offer.Descriptors {
		if name == queueSocket {
			i.queues = append(i.queues, fds[n])
			continue
		}
		i.others[name] = os.NewFile(uintptr(fds[n]), name)
	}
	return nil
}

// Listener is a listening socket that the old process had; nil if it had none.
func (i *Inheritance) Listener(name string) (net.Listener, error) {
	f := i.File(name)
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over %s: %w", name, err)
	}
	return l, nil
}

// File is something else that the old process had open; nil if it had not. The
// caller closes it.
func (i *Inheritance) File(name string) *os.File {
	if i == nil {
		return nil
	}
	f := i.others[name]
	delete(i.others, name)
	return f
}

// Inherit makes the old process give its last verdicts and end, and b and e go
// on where it was: e serves its queues once Run is called, which has to be at
// once. Everything else that can fail comes before: after an error the old
// process serves on.
func (i *Inheritance) Inherit(b *Balancer, e *Engine) error {
	if e.config.First != i.First || e.config.Last != i.Last {
		return fmt.Errorf("the running balancer serves the queues %d:%d, not %d:%d; use the same --queue", i.First, i.Last, e.config.First, e.config.Last)
	}
	if err := sayStep(i.conn, takeoverReady); err != nil {
		return i.refused(err)
	}
	var state takeoverState
	if err := i.old.Decode(&state); err != nil {
		return i.refused(err)
	}
	b.inherit(&state)
	e.stats.inherit(&state.Engine)
	if err := sayStep(i.conn, takeoverTaken); err != nil {
		return i.refused(err)
	}
	if err := awaitStep(i.old, takeoverYours); err != nil && !errors.Is(err, io.EOF) {
		return i.refused(err)
	}
	e.adopted, i.queues = i.queues, nil
	return nil
}

// refused finds out why the old process does not go on: it says so in the
// control socket's way, which is no JSON.
func (i *Inheritance) refused(err error) error {
	rest, _ := io.ReadAll(io.LimitReader(io.MultiReader(i.old.Buffered(), i.conn), maxLine))
	if at := bytes.Index(rest, []byte("FAIL: ")); at >= 0 {
		err = checkOK(rest[at:])
	}
	return fmt.Errorf("take the balancer over: %w", err)
}

// Close closes what was not taken out of it.
func (i *Inheritance) Close() {
	i.conn.Close()
	closeAll(i.queues)
	i.queues = nil
	for _, f := range i.others {
		f.Close()
	}
}
