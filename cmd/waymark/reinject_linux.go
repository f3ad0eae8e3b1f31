// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"waymark/decoder"
	"waymark/scenarios"
)

// Bounds of `replay --reinject`.
const (
	mostReinjected = 10_000  // packets that are sent again
	mostCompared   = 100_000 // packets of the recording

	shortestWait = time.Second / 2  // for what becomes of the last packet
	longestWait  = 10 * time.Second // a next hop that does not answer is given up in three
	settleWait   = time.Second      // until silence means an end
)

// reinject sends a recording's packets again, in the lab that they were recorded in,
// and compares what becomes of them with what became of them.
func reinject(name string, o replayOptions) error {
	before, err := originals(name, o)
	if err != nil {
		return err
	}
	sent, left := decoder.Sendable(before)
	w, err := worldOf(name, sent, left)
	if err != nil {
		return labExit(err)
	}
	defer w.Close()
	fmt.Fprintf(os.Stderr, "waymark: sending again in lab %s, of %d packets: %d%s\n", w.Name(), len(before), len(sent), countsOf(left, "; not "))

	flows := map[string]bool{}
	for _, j := range sent {
		flows[j.Flow] = true
	}
	var now []*decoder.Journey
	s := newStitcher(decoder.Options{Emit: func(j *decoder.Journey) {
		if flows[j.Flow] {
			now = append(now, j)
		}
	}})
	injected := make(chan error, 1)
	var ended atomic.Bool // the injection
	looked := 0           // at so many of now
	l := live{
		flags: defaultLiveFlags(), sinks: []decoder.Sink{s}, log: newLog(false),
		begun: func(ctx context.Context) {
			injected <- inject(ctx, w, sent, o.speed)
			ended.Store(true)
		},
		done: func() bool {
			if !ended.Load() || looked == len(now) {
				return false
			}
			looked = len(now)
			return nothingMissing(decoder.CompareAgain(before, sent, now), len(flows))
		},
	}
	for _, n := range w.Nodes() {
		l.flags.netns = append(l.flags.netns, w.Namespace(n))
	}
	l.flags.duration = reinjectTime(before, sent, o.speed)
	if err := l.run(); err != nil {
		return err
	}
	if err := <-injected; err != nil {
		return err
	}
	s.Flush()
	all := decoder.CompareAgain(before, sent, now)
	differ, err := decoder.WriteAgain(os.Stdout, all)
	if err != nil {
		return err
	}
	if n := lostBeside(before, all); n > 0 {
		fmt.Fprintf(os.Stderr, "waymark: nothing is said of %d packets that the recording lost: what was sent again does not show them\n", n)
	}
	if differ > 0 {
		return problem(fmt.Errorf("%d of %d packets differ from the recording", differ, len(all)))
	}
	return nil
}

// lostBeside is how many packets were lost in the recording that are not compared.
func lostBeside(before []*decoder.Journey, all []decoder.Again) (n int) {
	compared := map[*decoder.Journey]bool{}
	for _, a := range all {
		compared[a.Before] = true
	}
	for _, j := range before {
		if j.Outcome == decoder.Dropped && !compared[j] {
			n++
		}
	}
	return n
}

// nothingMissing tells whether more time would show nothing more: each packet is
// there, and an answer of each flow.
func nothingMissing(all []decoder.Again, flows int) bool {
	answered := map[string]bool{}
	for _, a := range all {
		if a.Now == nil {
			return false
		}
		if a.Answer {
			answered[a.Now.Flow] = true
		}
	}
	return len(answered) == flows
}

// originals are the recording's journeys, with their packets.
func originals(name string, o replayOptions) ([]*decoder.Journey, error) {
	in, err := openSource(name)
	if err != nil {
		return nil, fmt.Errorf("open the recording: %w", err)
	}
	defer in.Close()
	r := &decoder.Recording{In: in, Options: o.decoder()}
	r.Options.Originals = true
	var all []*decoder.Journey
	for t := range decoder.Merge([]*decoder.Recording{r}) {
		if t.Journey != nil {
			all = append(all, t.Journey)
		}
		if len(all) > mostCompared {
			return nil, fmt.Errorf("%s: more than %d packets: choose some with --filter", name, mostCompared)
		}
	}
	if r.Err != nil {
		return nil, fmt.Errorf("%s: %w", name, r.Err)
	}
	return all, nil
}

// worldOf opens the lab that the packets were sent in.
func worldOf(name string, sent []*decoder.Journey, left map[string]int) (*scenarios.World, error) {
	if len(sent) == 0 {
		return nil, fmt.Errorf("%s: no packet of it can be sent again%s", name, countsOf(left, ": only "))
	}
	if len(sent) > mostReinjected {
		return nil, fmt.Errorf("%s: %d packets to send again, at most %d can be: choose some with --filter", name, len(sent), mostReinjected)
	}
	lab := ""
	for _, j := range sent {
		of, _, ok := scenarios.LabOf(j.Hops[0].Netns)
		if !ok || lab != "" && of != lab {
			return nil, fmt.Errorf("%s: %s was not sent in a lab's namespace: packets are sent again in labs alone", name, j.Flow)
		}
		lab = of
	}
	return scenarios.Load(lab)
}

// countsOf are counts in words behind a beginning; nothing if there are none.
func countsOf(counts map[string]int, begin string) string {
	var words []string
	for _, why := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d %s", counts[why], why))
	}
	if len(words) == 0 {
		return ""
	}
	return begin + strings.Join(words, ", ")
}

// reinjectTime is how long to watch: until the last packet is sent, and then as long
// as what it met took in the recording.
func reinjectTime(before, sent []*decoder.Journey, speed float64) time.Duration {
	first, last := sent[0].Start, sent[len(sent)-1].Start
	var end decoder.WallTime
	for _, j := range before {
		end = max(end, j.Start+decoder.WallTime(j.DurationNs))
	}
	var span time.Duration
	if speed > 0 {
		span = time.Duration(float64(last-first) / speed)
	}
	return span + min(max(time.Duration(end-last), shortestWait), longestWait) + settleWait
}

// inject sends the packets from where they were sent, as far apart as they were.
func inject(ctx context.Context, w *scenarios.World, sent []*decoder.Journey, speed float64) error {
	pace := newPace(speed)
	for _, j := range sent {
		if !pace.until(ctx, j.Start, func() {}) {
			return errors.New("interrupted before all packets were sent again")
		}
		packet, err := j.Original.Whole()
		if err != nil {
			return fmt.Errorf("send %s again: %w; --filter can leave it out", j.Flow, err)
		}
		_, node, _ := scenarios.LabOf(j.Hops[0].Netns)
		if err := w.Inject(node, packet); err != nil {
			return fmt.Errorf("send %s again: %w", j.Flow, err)
		}
	}
	return nil
}
