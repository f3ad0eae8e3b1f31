// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"
	"syscall"

	"waymark/decoder"
	"waymark/nfqlb"
)

const traceHelp = `usage: waymark trace [flags] [FILTER...]

Follows matching packets through namespaces and prints each one's journey:
every hop, what was decided there, and how it ended. FILTER is a five-tuple
(PROTO SRC[:PORT] DST[:PORT], with - or any) or one quoted pcap-filter(7)
expression.

examples:
  waymark trace tcp any 10.0.0.1:5000
  waymark trace -c 10 -o json 'host 10.0.0.1 and tcp[tcpflags] & tcp-syn != 0'
  waymark trace --flows --for 10s udp any [1000::1:a00:1]:5000

`

func runTrace(args []string) error {
	var l live
	fs := newFlags("trace", traceHelp)
	l.flags.add(fs)
	flows := fs.Bool("flows", false, "at the end, summarise per flow instead of printing every journey")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if err := l.flags.check(); err != nil {
		return err
	}
	l.filter, l.log = fs.Args(), newLog(l.flags.verbose)
	out := newPrinter(l.flags.output, *flows)
	s := newStitcher(out.journey, nil)
	l.stitch, l.done = s, func() bool { return s.Done() || out.err != nil }
	if err := l.run(); err != nil {
		return err
	}
	s.Flush()
	return out.finish(s)
}

// newStitcher is the stitcher of every command: live and replay are the same
// code and print the same.
func newStitcher(journey func(*decoder.Journey), drop func(*decoder.Drop)) *decoder.Stitcher {
	return decoder.NewStitcher(decoder.Options{Emit: journey, EmitDrop: drop, LB: &nfqlb.Decider{}})
}

func printNothing(*decoder.Journey) {}

// printer prints results on stdout in the chosen form.
type printer struct {
	w     decoder.Writer
	flows *decoder.Flows // nil: print journeys
	err   error          // first error of writing; nothing is printed after it
}

func newPrinter(output string, flows bool) *printer {
	p := &printer{w: newWriter(os.Stdout, output)}
	if flows {
		p.flows = decoder.NewFlows()
	}
	return p
}

func newWriter(w io.Writer, output string) decoder.Writer {
	if output == "json" {
		return decoder.NewJSONWriter(w)
	}
	return decoder.NewTextWriter(w, decoder.TextOptions{Color: colorful(os.Stdout)})
}

func (p *printer) journey(j *decoder.Journey) {
	if p.flows != nil {
		p.flows.Add(j)
		return
	}
	p.keep(p.w.Journey(j))
}

func (p *printer) drop(d *decoder.Drop) { p.keep(p.w.Drop(d)) }

func (p *printer) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}

// finish prints what comes at the end and returns the first error. A reader
// that went away (a closed pipe) is no error.
func (p *printer) finish(s *decoder.Stitcher) error {
	if p.flows != nil {
		for _, f := range p.flows.Summaries() {
			p.keep(p.w.Flow(f))
		}
	}
	if st := s.Stats(); st.Lost > 0 || st.Untracked > 0 || st.Evicted > 0 {
		_ = decoder.NewTextWriter(os.Stderr, decoder.TextOptions{}).Status(s.Status())
	}
	if errors.Is(p.err, syscall.EPIPE) {
		return nil
	}
	return p.err
}
