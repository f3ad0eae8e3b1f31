// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"waymark/decoder"
	"waymark/tracer"
	"waymark/tracer/filter"
	"waymark/tracer/place"
)

// live is one look at live traffic: from the flags to the stream's end.
type live struct {
	flags  liveFlags
	filter []string
	groups []string // hook groups if --hooks does not say
	stack  bool     // drops tell the kernel's stack
	counts bool     // who reads the drops wants their numbers, not each
	quiet  bool     // do not say that it traces
	// begun is called, beside the trace, when packets are seen.
	begun func(context.Context)
	// sinks take the stream besides the recording. done tells that they have
	// all they want.
	sinks []decoder.Sink
	done  func() bool
	log   zerolog.Logger
	// recording says what the recording is to have, if there is one.
	recording recordingOptions
	// progress tells how far it is, if that is all there is to see.
	progress *progress
}

// run traces until the count or the time is reached, or a signal comes.
func (l *live) run() error {
	f, err := filter.Parse(l.filter)
	if err != nil {
		return err
	}
	if l.flags.followReply {
		f = f.WithReply()
	}
	netns, err := l.namespaces()
	if err != nil {
		return err
	}
	mark, mask, err := parseMark(l.flags.mark)
	if err != nil {
		return err
	}
	ring, err := parseRing(l.flags.ring)
	if err != nil {
		return err
	}
	budget, err := parseBudget(l.flags.budget)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	signalled := ctx

	tee := &tee{sinks: l.sinks, done: l.done}
	var rec *recording
	if l.flags.write != "" {
		if rec, err = openRecording(l.flags.write, l.recording); err != nil {
			return err
		}
		defer rec.abandon()
		// The recording first: what was printed is then surely in it.
		tee.sinks = append([]decoder.Sink{rec}, tee.sinks...)
	}
	groups := l.flags.hooks
	if len(groups) == 0 {
		groups = l.groups
	}
	t, err := tracer.Open(ctx, tracer.Options{
		Filter: f, Netns: netns, Devices: l.flags.devices, Groups: groups, SnapLen: l.flags.snapLen, RingBytes: ring, Cost: l.flags.cost, Budget: budget, Stack: l.stack, CountEqual: l.counts && l.flags.write == "" && l.flags.count == 0,
		Sink: tee, Balancer: balancerState, Log: l.log,
		Session: decoder.Session{
			Version: version, Format: decoder.RecordFormat, Node: nodeName(), Filter: l.filter,
			FollowReply: l.flags.followReply, Limit: l.flags.count, Mark: mark, MarkMask: mask,
		},
	})
	if err != nil {
		return liveError(err)
	}
	defer t.Close()
	if rec != nil {
		if err := rec.begin(); err != nil {
			return err
		}
		defer rec.close()
	}
	if l.begun != nil {
		go l.begun(ctx)
	}
	for name, why := range t.Missing() {
		l.log.Debug().Str("hook", name).Err(why).Msg("not available here")
	}
	devices, namespaces := t.Attached()
	if !l.quiet {
		fmt.Fprintf(os.Stderr, "waymark: tracing on %d devices in %d namespaces\n", devices, namespaces)
	}

	if l.flags.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.flags.duration)
		defer cancel()
	}
	began := time.Now()
	reported := func() {}
	if l.progress != nil && rec != nil {
		reported = l.report(began, t, rec)
	}
	err = t.Run(ctx)
	reported()
	if err != nil {
		return err
	}
	if l.flags.cost {
		if err := printCosts(os.Stderr, t, time.Since(began)); err != nil {
			return err
		}
	}
	if rec != nil {
		if err := rec.close(); err != nil {
			return err
		}
		if l.progress != nil {
			why := ""
			if signalled.Err() != nil {
				why = "interrupted"
			}
			l.progress.end(recordedBy(t, rec), time.Since(began), why, rec.files.names())
		}
	}
	return nil
}

// liveError gives the errors of opening a trace their exit code.
func liveError(err error) error {
	switch {
	case errors.Is(err, tracer.ErrNotPermitted), errors.Is(err, syscall.EPERM), errors.Is(err, tracer.ErrUnsupported):
		return unsupported(err)
	}
	return err
}

// report tells the progress now and then, until the returned function is called.
func (l *live) report(began time.Time, t *tracer.Tracer, rec *recording) (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(l.progress.every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				l.progress.tell(recordedBy(t, rec), time.Since(began))
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		l.progress.clear()
	}
}

// recordedBy is how far a recording is.
func recordedBy(t *tracer.Tracer, rec *recording) recorded {
	r := recorded{
		packets: rec.packets.Load(), records: rec.records.Load(), bytes: rec.bytes.Load(), files: int(rec.files.opened.Load()),
	}
	for _, s := range t.Stats() {
		r.lost += s.Lost
		r.untracked += s.Untracked
	}
	return r
}

// namespaces are those of --netns and --pod.
func (l *live) namespaces() ([]string, error) {
	netns := append([]string(nil), l.flags.netns...)
	if len(l.flags.pods) == 0 {
		return netns, nil
	}
	all, err := place.Discover()
	if err != nil {
		return nil, err
	}
	for _, pod := range l.flags.pods {
		_, name, ok := strings.Cut(pod, "/")
		if !ok {
			return nil, fmt.Errorf("--pod %s: give NAMESPACE/NAME", pod)
		}
		found := false
		for _, ns := range all {
			if ns.Pod == pod || ns.Pod == name {
				netns, found = append(netns, ns.Path), true
			}
		}
		if !found {
			return nil, fmt.Errorf("--pod %s: no process of such a pod runs on this node", pod)
		}
	}
	return netns, nil
}

func nodeName() string {
	if n := os.Getenv("NODE_NAME"); n != "" { // what a DaemonSet passes down
		return n
	}
	n, err := os.Hostname()
	if err != nil {
		return "node"
	}
	return n
}

// tee passes the stream on to several sinks and ends it when the reader has
// all it wants.
type tee struct {
	sinks []decoder.Sink
	done  func() bool
}

func (t *tee) Record(raw []byte) error {
	for _, s := range t.sinks {
		if err := s.Record(raw); err != nil {
			return err
		}
	}
	return t.end()
}

func (t *tee) Context(c *decoder.Context) error {
	for _, s := range t.sinks {
		if err := s.Context(c); err != nil {
			return err
		}
	}
	if c.End != nil {
		return nil
	}
	return t.end()
}

func (t *tee) end() error {
	if t.done != nil && t.done() {
		return tracer.ErrDone
	}
	return nil
}
