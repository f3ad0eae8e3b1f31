// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Flow implements Writer: the flow's name, then both directions side by side.
func (w *TextWriter) Flow(f *FlowSummary) error {
	there, back := f.Forward.column("there"), f.Reply.column("back")
	width := 0
	for _, s := range there {
		width = max(width, utf8.RuneCountInString(s))
	}
	on := ""
	if w.opt.Nodes {
		on = "  on " + f.Node
	}
	w.printf("%s %s%s\n", f.Start.clock(), w.color(bold, f.Flow), on)
	for i := range max(len(there), len(back)) {
		var l, r string
		if i < len(there) {
			l = there[i]
		}
		if i < len(back) {
			r = back[i]
		}
		line := "    " + l + strings.Repeat(" ", width-utf8.RuneCountInString(l)) + "  │ " + r
		w.printf("%s\n", strings.TrimRight(line, " "))
	}
	for _, d := range []struct {
		name string
		drop *Drop
	}{{"there", f.Forward.Drop}, {"back", f.Reply.Drop}} {
		if d.drop == nil {
			continue
		}
		w.printf("    %s: %s at %s in %s\n", d.name, w.color(red, "dropped: "+d.drop.Reason), d.drop.At, d.drop.place())
		if d.drop.Because != "" {
			w.printf("    because %s\n", d.drop.Because)
		}
		if d.drop.Advice != "" {
			w.printf("    advice: %s\n", d.drop.Advice)
		}
	}
	for _, d := range []struct {
		name string
		way  *FlowDirection
	}{{"there", &f.Forward}, {"back", &f.Reply}} {
		if d.way.Because != "" {
			w.printf("    %s: %s\n    because %s\n    advice: %s\n", d.name, w.color(red, "nothing came of it"), d.way.Because, d.way.Advice)
		}
	}
	if !f.Complete {
		w.printf("    %s\n", w.color(yellow, "note: records may be missing"))
	}
	return w.flush()
}

// column is one direction as lines.
func (d *FlowDirection) column(name string) []string {
	if d.Journeys == 0 {
		return []string{name + ": nothing seen"}
	}
	lines := []string{fmt.Sprintf("%s: %d %s", name, d.Journeys, plural(d.Journeys, "packet"))}
	var outcomes []string
	for o := range d.Outcomes {
		outcomes = append(outcomes, string(o))
	}
	slices.Sort(outcomes)
	for i, o := range outcomes {
		outcomes[i] = fmt.Sprintf("%s %d", o, d.Outcomes[Outcome(o)])
	}
	lines = append(lines, strings.Join(outcomes, ", "), fmt.Sprintf("p50 %s, max %s", micros(d.P50Ns), micros(d.MaxNs)))
	if d.Ways > 1 {
		lines = append(lines, fmt.Sprintf("%d ways, the most used (%d):", d.Ways, d.WayCount))
	}
	for _, p := range d.Way {
		lines = append(lines, "  "+p)
	}
	return lines
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
