// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// recorded is how far a recording is.
type recorded struct {
	packets, records uint64
	lost             uint64 // records
	untracked        uint64 // packets that could not be followed
	bytes            int64
	files            int
}

// progress tells how far a recording is: on a terminal in one line, each second;
// elsewhere in a line each ten seconds.
type progress struct {
	w        io.Writer
	terminal bool
	every    time.Duration
	last     recorded
	at       time.Duration // of last, since the start
	width    int           // of the line on the terminal
}

func newProgress(w io.Writer, terminal bool) *progress {
	p := &progress{w: w, terminal: terminal, every: 10 * time.Second}
	if terminal {
		p.every = time.Second
	}
	return p
}

// tell says what was recorded since the start, and the rate since it was last told.
func (p *progress) tell(now recorded, since time.Duration) {
	line := now.text(rate(now.packets-p.last.packets, since-p.at))
	p.last, p.at = now, since
	if !p.terminal {
		fmt.Fprintf(p.w, "waymark: %s\n", line)
		return
	}
	p.rewrite(line)
}

// rewrite puts a line in place of the last one on the terminal.
func (p *progress) rewrite(line string) {
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// clear makes room for another line on the terminal.
func (p *progress) clear() {
	if p.width > 0 {
		p.rewrite("")
		fmt.Fprint(p.w, "\r")
	}
}

// end says what was recorded in all, and where to. why: what ended it, if not
// what was asked for.
func (p *progress) end(now recorded, took time.Duration, why, path string) {
	p.clear()
	if why != "" {
		why += ": "
	}
	fmt.Fprintf(p.w, "waymark: %srecorded %s in %s to %s\n", why, now.text(rate(now.packets, took)), took.Round(100*time.Millisecond), path)
}

func rate(n uint64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// text is "1000 packets (500/s), 3000 records, 1.2 MiB, lost 0".
func (r recorded) text(rate float64) string {
	s := fmt.Sprintf("%d packets (%.0f/s), %d records, %s", r.packets, rate, r.records, byteText(r.bytes))
	if r.files > 1 {
		s += fmt.Sprintf(" in %d files", r.files)
	}
	s += fmt.Sprintf(", lost %d", r.lost)
	if r.untracked > 0 {
		s += fmt.Sprintf(", not followed %d packets", r.untracked)
	}
	return s
}

func byteText(n int64) string {
	v, unit := float64(n), "KiB"
	for _, unit = range []string{"KiB", "MiB", "GiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}
