// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"waymark/decoder"
	"waymark/nfqlb"
	"waymark/tracer/filter"
)

const replayHelp = `usage: waymark replay [flags] FILE|SCENARIO...
       waymark replay --reinject FILE|SCENARIO
       waymark replay --list

Stitches recordings again and prints what the live traces printed, of several
(of several nodes, say) in the order of time. Needs no privileges and no
particular kernel. A journey is shown if any of its packets matches the filter.
A word that is no file's name is one of the library's scenarios: what was
recorded of each fault that the labs have. --reinject sends what opened TCP
connections, UDP requests and echo requests again in the lab of the recording,
and compares: the way of each and of its answer, and how they ended.

examples:
  waymark replay --only dropped --filter 'tcp any 10.0.0.1:5000' vip.pcapng
  waymark replay --speed 1x --filter 'host 10.0.0.1' node1.pcapng node2.pcapng
  waymark replay -o json --expect vip.json vip.pcapng
  waymark replay meridio/rp-filter
  waymark lab up meridio && waymark replay --reinject meridio/rp-filter

`

func runReplay(args []string) error {
	fs := newFlags("replay", replayHelp)
	o := replayOptions{}
	fs.StringVarP(&o.output, "output", "o", "text", "text or json (one object per line)")
	fs.BoolVar(&o.flows, "flows", false, "summarise per flow instead of printing every journey")
	fs.BoolVar(&o.drops, "drops", false, "print drops only, as waymark drops would have")
	o.how.add(fs)
	expr := fs.String("filter", "", "only packets that match `FILTER`, a five-tuple or pcap-filter(7) expression")
	followReply := fs.Bool("follow-reply", true, "with --filter, the packets of the other direction as well")
	only := fs.StringSlice("only", nil, "only journeys with these `OUTCOMES`: dropped, delivered, forwarded, consumed, open; or incomplete (repeatable)")
	mark := fs.String("mark", "", "only packets that have `MARK[/MASK]` somewhere on the way")
	speed := fs.String("speed", "max", "print as fast as it was recorded (1x), `N` times as fast (10x), or max")
	expect := fs.String("expect", "", "compare with what is in `FILE` instead of printing; print the differences and exit with 1 if there are any")
	again := fs.Bool("reinject", false, "send its packets again in the lab they were recorded in, and compare")
	list := fs.Bool("list", false, "list the library's scenarios: name, question, kernel, what was broken")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if *list {
		return listLibrary(fs, o.output)
	}
	if fs.NArg() == 0 {
		return errors.New("replay needs a recording: waymark replay FILE; `waymark replay --list` lists some")
	}
	if !o.drops && (o.how.all || o.how.collapse || o.how.top) {
		return errors.New("--all, --collapse and --top are for drops: add --drops")
	}
	if err := o.how.check(fs, o.output); err != nil {
		return err
	}
	if err := o.parse(*expr, *followReply, *only, *mark, *speed); err != nil {
		return err
	}
	if *again {
		return runReinject(fs, o)
	}
	if *expect == "" {
		return replay(fs.Args(), os.Stdout, o)
	}
	e, err := newExpectation(*expect, o.output == "json")
	if err != nil {
		return err
	}
	defer e.close()
	o.speed = 0
	if err := replay(fs.Args(), e, o); err != nil {
		return err
	}
	return e.judge(os.Stdout)
}

// runReinject is `waymark replay --reinject`: at the recording's speed unless it is
// told another one.
func runReinject(fs *pflag.FlagSet, o replayOptions) error {
	if fs.NArg() > 1 {
		return errors.New("--reinject takes one recording")
	}
	var refused error
	fs.Visit(func(f *pflag.Flag) {
		if !slices.Contains([]string{"reinject", "filter", "follow-reply", "speed"}, f.Name) {
			refused = fmt.Errorf("--reinject compares packets: leave out --%s; --filter chooses packets, --speed their pace", f.Name)
		}
	})
	if refused != nil {
		return refused
	}
	if !fs.Changed("speed") {
		o.speed = 1
	}
	return reinject(fs.Arg(0), o)
}

// replayOptions are what to print of recordings. The zero value of all but
// output is everything, at once.
type replayOptions struct {
	output         string // text or json
	flows, drops   bool
	how            dropFlags
	mark, markMask uint32         // mask 0: any mark
	filter         *filter.Filter // nil: any packet
	only           []string
	speed          float64 // times as fast as recorded; 0: as fast as possible
}

// parse takes the flags that are more than a word.
func (o *replayOptions) parse(expr string, followReply bool, only []string, mark, speed string) (err error) {
	if o.output != "text" && o.output != "json" {
		return fmt.Errorf("-o %s: choose text or json", o.output)
	}
	if o.mark, o.markMask, err = parseMark(mark); err != nil {
		return err
	}
	if strings.TrimSpace(expr) != "" {
		if o.filter, err = filter.Parse(strings.Fields(expr)); err != nil {
			return err
		}
		if followReply {
			o.filter = o.filter.WithReply()
		}
	}
	if err := decoder.CheckOnly(only); err != nil {
		return fmt.Errorf("--only: %w", err)
	}
	o.only = only
	if o.speed, err = parseSpeed(speed); err != nil {
		return err
	}
	if o.flows && o.speed != 0 {
		return errors.New("--speed: flows are summed up at the end, so leave out --speed or --flows")
	}
	return nil
}

// decoder are the options of each recording's stitcher.
func (o *replayOptions) decoder() decoder.Options {
	d := decoder.Options{LB: &nfqlb.Decider{}, Mark: o.mark, MarkMask: o.markMask, Only: o.only}
	if o.filter != nil {
		d.Match = func(p decoder.PacketBytes) bool {
			if p.Network {
				return o.filter.MatchNetwork(p.Data, p.EtherType, p.WireLen)
			}
			return o.filter.Match(p.Data, p.WireLen)
		}
	}
	return d
}

// teller prints what recordings tell.
type teller interface {
	told(decoder.Told)
	flush()
	failed() bool
	finish(...*decoder.Status) error
}

func (o *replayOptions) printer(w io.Writer, nodes bool) teller {
	if o.drops {
		return newDropPrinter(w, o.output, o.how, nodes)
	}
	return newPrinter(w, o.output, o.flows, nodes)
}

// replay prints what the recordings in the files tell.
func replay(paths []string, w io.Writer, o replayOptions) error {
	sources, closeAll, err := openSources(paths)
	defer closeAll()
	if err != nil {
		return err
	}
	tellGaps(sources)
	var recordings []*decoder.Recording
	for _, s := range sources {
		recordings = append(recordings, &decoder.Recording{In: s.files[0], Then: s.rest(), Options: o.decoder(), Drops: o.drops})
	}
	ctx := context.Background()
	if o.speed != 0 {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	out := o.printer(w, len(sources) > 1)
	pace := newPace(o.speed)
	interrupted := false
	var at decoder.WallTime // of what was told last
	for t := range decoder.Merge(recordings) {
		if interrupted = !pace.until(ctx, t.Time(), out.flush); interrupted {
			break
		}
		at = t.Time()
		out.told(t)
		if out.failed() {
			break
		}
	}
	for i, r := range recordings {
		if r.Err != nil {
			out.flush()
			return fmt.Errorf("%s: %w", sources[i].paths[len(r.Before)], r.Err)
		}
	}
	var statuses []*decoder.Status
	for i, r := range recordings {
		for k, result := range append(r.Before, r.Result) {
			if result.Truncated {
				fmt.Fprintf(os.Stderr, "waymark: %s is cut off at byte %d: replayed up to there\n", sources[i].paths[k], result.Offset)
			}
		}
		if r.Node == "" && r.From != 0 {
			fmt.Fprintf(os.Stderr, "waymark: %s has lost who recorded it and when, as by mergecap with other captures: its times begin with the machine\n", sources[i].paths[0])
		}
		if interrupted { // more was read than told
			r.Status.Time = min(r.Status.Time, at)
		}
		statuses = append(statuses, r.Status)
	}
	tellOverlaps(sources, recordings)
	return out.finish(statuses...)
}

// tellOverlaps says which recordings may tell of one packet twice.
func tellOverlaps(sources []*source, recordings []*decoder.Recording) {
	for i, a := range recordings {
		for j := i + 1; j < len(recordings); j++ {
			if b := recordings[j]; a.Overlaps(b) {
				fmt.Fprintf(os.Stderr, "waymark: %s and %s are of the same node, %s, and of the same time: a packet that both recorded is told twice\n", sources[i].paths[0], sources[j].paths[0], a.Node)
			}
		}
	}
}
