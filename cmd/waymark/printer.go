// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"io"
	"os"
	"syscall"

	"waymark/decoder"
	"waymark/nfqlb"
)

// newStitcher is the stitcher of every command: live and replay are the same
// code and print the same.
func newStitcher(o decoder.Options) *decoder.Stitcher {
	o.LB = &nfqlb.Decider{}
	return decoder.NewStitcher(o)
}

func printNothing(*decoder.Journey) {}

// printer prints results in the chosen form. In a stream it comes after the
// stitcher: what was printed reaches the reader at the stream's next clock, a
// system call for many results.
type printer struct {
	w     decoder.Writer
	buf   *bufio.Writer
	flows *decoder.Flows // nil: print journeys
	quiet decoder.Silences
	err   error // first error of writing; nothing is printed after it
}

// newPrinter returns a printer to w; nodes: flows name their node.
func newPrinter(w io.Writer, output string, flows, nodes bool) *printer {
	p := &printer{buf: bufio.NewWriterSize(w, 64<<10)}
	p.w = newWriter(p.buf, output, decoder.TextOptions{Color: w == os.Stdout && colorful(os.Stdout), Nodes: nodes})
	if flows {
		p.flows = decoder.NewFlows()
	}
	return p
}

// Record implements decoder.Sink.
func (p *printer) Record([]byte) error { return nil }

// Context implements decoder.Sink.
func (p *printer) Context(c *decoder.Context) error {
	if c.Clock != nil {
		p.flush()
	}
	return nil
}

func newWriter(w io.Writer, output string, o decoder.TextOptions) decoder.Writer {
	if output == "json" {
		return decoder.NewJSONWriter(w)
	}
	return decoder.NewTextWriter(w, o)
}

// told prints one thing that a recording tells.
func (p *printer) told(t decoder.Told) {
	switch {
	case t.Journey != nil:
		p.journey(t.Journey)
	case t.Status != nil:
		p.status(t.Status)
	}
}

func (p *printer) journey(j *decoder.Journey) {
	p.quiet.Add(j)
	if p.flows != nil {
		p.flows.Add(j)
		return
	}
	p.keep(p.w.Journey(j))
}

func (p *printer) drop(d *decoder.Drop) { p.keep(p.w.Drop(d)) }

func (p *printer) status(s *decoder.Status) { p.keep(p.w.Status(s)) }

func (p *printer) flush() { p.keep(p.buf.Flush()) }

func (p *printer) failed() bool { return p.err != nil }

func (p *printer) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}

// finish prints what comes at the end and returns the first error; each status
// tells what a stream lost. A reader that went away (a closed pipe) is no error.
func (p *printer) finish(statuses ...*decoder.Status) error {
	if p.flows != nil {
		for _, f := range p.flows.Summaries() {
			p.keep(p.w.Flow(f))
		}
	}
	for _, u := range p.quiet.All() {
		p.keep(p.w.Unanswered(u))
	}
	p.flush()
	for _, s := range statuses {
		if s.Lost > 0 || s.Untracked > 0 || s.Evicted > 0 {
			_ = decoder.NewTextWriter(os.Stderr, decoder.TextOptions{}).Status(s)
		}
	}
	if errors.Is(p.err, syscall.EPIPE) {
		return nil
	}
	return p.err
}
