// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Drop implements Writer.
func (w *TextWriter) Drop(d *Drop) error {
	what := w.color(red, d.Reason)
	if d.Normal != "" {
		what = d.Reason
	}
	if d.At != "" {
		what += " at " + d.At
	}
	w.printf("%s %s  %s", d.Time.clock(), w.color(bold, d.place()), what)
	if d.Packet != nil {
		w.printf("  %s", d.Packet.text())
	}
	if d.Journey != "" {
		w.printf("  %s", w.color(dim, "#"+d.Journey))
	}
	w.b = append(w.b, '\n')
	for _, s := range []struct{ head, text string }{{"because ", d.Because}, {"advice: ", d.Advice}, {"normal: ", d.Normal}} {
		if s.text != "" {
			w.printf("    %s%s\n", s.head, s.text)
		}
	}
	for i, function := range d.Stack {
		head := ""
		if i == 0 {
			head = "stack:"
		}
		w.printf("    %-6s %s\n", head, function)
	}
	return w.flush()
}

// Drops implements Writer.
func (w *TextWriter) Drops(c *DropCount) error {
	w.printf("%s ", c.Time.clock())
	if c.Others {
		w.printf("%s", w.color(bold, "others"))
	} else {
		w.printf("%s  %s", w.color(bold, w.place(c)), c.what())
		if c.Packet != nil {
			w.printf("  %s", c.Packet.text())
		}
	}
	w.printf("  … %s more in %.1f s", grouped(c.Count), c.Seconds)
	if c.Rate > 0 {
		w.printf(" (%s/s)", rateText(c.Rate))
	}
	w.b = append(w.b, '\n')
	return w.flush()
}

// Totals implements Writer.
func (w *TextWriter) Totals(t *DropTable) error {
	w.headline(t)
	kinds := t.Kinds
	if !slices.ContainsFunc(kinds, func(c DropCount) bool { return c.Count > 1 }) {
		kinds = nil // each was just told
	}
	for i := range kinds {
		c := &kinds[i]
		w.printf("%12s  ", grouped(c.Count))
		if c.Others {
			w.printf("others\n")
			continue
		}
		w.printf("%s  %s", w.place(c), c.what())
		if c.Packet != nil {
			w.printf("  %s", c.Packet.text())
		}
		if c.Count > 1 {
			w.printf("  %s to %s", c.Since.clock(), c.Last.clock())
		}
		if c.Because != "" {
			w.printf("  because %s", c.Because)
		}
		if c.Normal != "" {
			w.printf("  normal: %s", c.Normal)
		}
		w.b = append(w.b, '\n')
	}
	w.normal(t)
	return w.flush()
}

// headline says how many drops there were.
func (w *TextWriter) headline(t *DropTable) {
	switch t.Drops {
	case 0:
		w.printf("no drops")
	case 1:
		w.printf("1 drop")
	default:
		w.printf("%s drops", grouped(t.Drops))
	}
	w.printf(" in %.1f s\n", t.Seconds)
}

// normal is the one line about what is no drop.
func (w *TextWriter) normal(t *DropTable) {
	for i, n := range t.Normal {
		head := "; "
		if i == 0 {
			head = "normal, no drops: "
		}
		w.printf("%s%s × %s", head, grouped(n.Count), n.Why)
	}
	if len(t.Normal) > 0 {
		w.b = append(w.b, '\n')
	}
}

// Screen is a terminal's size in characters. The zero value is no terminal.
type Screen struct{ Columns, Rows int }

// TopRows is how many kinds a table for the screen has room for: beside them
// stand a headline, a row of names and lines about others, about what is normal
// and about the tracer, and the cursor.
func (s Screen) TopRows() int {
	const without, few, many = 20, 1, 100
	if s.Rows == 0 {
		return without
	}
	return min(max(s.Rows-6, few), many)
}

// Top prints a table of drops, and a status unless nil; on a screen in the place
// of the last one.
func (w *TextWriter) Top(t *DropTable, status *Status, screen Screen) error {
	w.headline(t)
	cells := [][]string{{"RATE/s", "COUNT", "SINCE", "PLACE", "REASON", "FLOW", "BECAUSE"}}
	for i := range t.Kinds {
		c := &t.Kinds[i]
		since, _, _ := strings.Cut(c.Since.clock(), ".")
		row := []string{rateText(c.Rate), grouped(c.Count), since, "others", "", "", ""}
		if !c.Others {
			row[3], row[4], row[6] = w.place(c), c.what(), cmp.Or(c.Because, c.Normal)
			if c.Packet != nil {
				row[5] = c.Packet.text()
			}
		}
		cells = append(cells, row)
	}
	if len(t.Kinds) > 0 {
		w.columns(cells)
	}
	w.normal(t)
	if status != nil {
		w.b = append(w.b, status.text()...)
		w.b = append(w.b, '\n')
	}
	if screen.Rows == 0 {
		w.b = append(w.b, '\n')
		return w.flush()
	}
	w.b = w.inPlace(w.b, screen)
	return w.flush()
}

// columns prints rows of a table; the first two columns are numbers.
func (w *TextWriter) columns(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				line.WriteString(pad + cell + "  ")
			} else {
				line.WriteString(cell + pad + "  ")
			}
		}
		w.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// inPlace makes text replace what is on the screen: from the first line on, each
// cut to the screen and cleared behind, and nothing below (ECMA-48 CUP, EL, ED).
func (w *TextWriter) inPlace(text []byte, screen Screen) []byte {
	const home, clearLine, clearBelow = "\x1b[H", "\x1b[K", "\x1b[J"
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	out := []byte(home)
	for i, line := range lines {
		if i >= screen.Rows-1 {
			break
		}
		if r := []rune(line); screen.Columns > 0 && len(r) > screen.Columns {
			line = string(r[:screen.Columns-1]) + "…"
		}
		if i == 0 {
			line = w.color(bold, line)
		}
		out = append(append(append(out, line...), clearLine...), '\n')
	}
	return append(out, clearBelow...)
}

// place is where drops of one kind were.
func (w *TextWriter) place(c *DropCount) string {
	p := place(cmp.Or(c.Pod, c.Netns), c.Dev)
	if w.opt.Nodes {
		p += " on " + c.Node
	}
	return p
}

// what is reason and function.
func (c *DropCount) what() string {
	if c.At == "" {
		return c.Reason
	}
	return c.Reason + " at " + c.At
}

func (e *DropEnds) text() string {
	if !e.Src.IsValid() && !e.Dst.IsValid() {
		return e.Proto
	}
	return e.Proto + " " + endpoint(e.Src, 0) + " → " + endpoint(e.Dst, e.DPort)
}

// grouped is 1234567 as "1,234,567".
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rateText is a rate per second; slow ones with a decimal.
func rateText(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 10:
		return fmt.Sprintf("%.1f", r)
	}
	return grouped(uint64(r + 0.5))
}
