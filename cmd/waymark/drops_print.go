// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/pflag"

	"waymark/decoder"
)

// dropFlags are how drops are told, live and of a recording.
type dropFlags struct{ all, collapse, top bool }

func (f *dropFlags) add(fs *pflag.FlagSet) {
	fs.BoolVar(&f.all, "all", false, "show in full what is normal as well")
	fs.BoolVar(&f.collapse, "collapse", false, "tell repeats as count and rate, once a second (default for text)")
	fs.BoolVar(&f.top, "top", false, "a table of drops by rate, renewed every second")
}

// check refuses what cannot be meant, and fills in the default.
func (f *dropFlags) check(fs *pflag.FlagSet, output string) error {
	if f.top && output != "text" {
		return errors.New("--top is a table for people; for JSON use --collapse")
	}
	if !fs.Changed("collapse") {
		f.collapse = output == "text"
	}
	return nil
}

// dropPrinter prints drops and what there is to say of them at the end.
type dropPrinter struct {
	*printer
	kinds  *decoder.DropKinds
	top    *decoder.TextWriter // nil: no table
	screen func() decoder.Screen
	latest *decoder.Status // for the table
}

// totalRows is how many kinds of drops are listed at the end.
const totalRows = 100

// newDropPrinter returns a printer to w; nodes: counts name their node.
func newDropPrinter(w io.Writer, output string, f dropFlags, nodes bool) *dropPrinter {
	p := &dropPrinter{printer: newPrinter(w, output, false, nodes)}
	o := decoder.DropKindsOptions{First: p.drop, Repeats: p.repeats, Each: !f.collapse, All: f.all}
	if f.top {
		p.top, p.screen = decoder.NewTextWriter(p.buf, decoder.TextOptions{Color: colorful(os.Stdout), Nodes: nodes}), func() decoder.Screen { return decoder.Screen{} }
		if w == os.Stdout && os.Getenv("TERM") != "dumb" {
			p.screen = func() decoder.Screen { return screenOf(os.Stdout) }
		}
		o.First, o.Repeats, o.Second = nil, nil, p.table
	}
	p.kinds = decoder.NewDropKinds(o)
	return p
}

// options are those of a stitcher that feeds the printer.
func (p *dropPrinter) options() decoder.Options {
	return decoder.Options{EmitDrop: p.kinds.Add, EmitNormal: p.kinds.Add, EmitClock: p.kinds.Clock, EmitStatus: p.status}
}

// told takes from a recording what options takes live.
func (p *dropPrinter) told(t decoder.Told) {
	switch {
	case t.Drop != nil:
		p.kinds.Add(t.Drop)
	case t.Status != nil:
		p.status(t.Status)
	case t.Clock != 0:
		p.kinds.Clock(t.Clock)
	}
}

func (p *dropPrinter) repeats(c *decoder.DropCount) { p.keep(p.w.Drops(c)) }

func (p *dropPrinter) status(s *decoder.Status) {
	if p.top != nil {
		p.latest = s
		return
	}
	p.printer.status(s)
}

// table prints the table anew.
func (p *dropPrinter) table() {
	screen := p.screen()
	p.keep(p.top.Top(p.kinds.Top(screen.TopRows()), p.latest, screen))
}

// finish prints the totals, or leaves the last table, and returns the first
// error.
func (p *dropPrinter) finish(statuses ...*decoder.Status) error {
	var end decoder.WallTime
	for _, s := range statuses {
		end = max(end, s.Time)
	}
	p.kinds.Finish(end)
	if p.top == nil {
		p.keep(p.w.Totals(p.kinds.Totals(totalRows)))
	}
	return p.printer.finish(statuses...)
}
