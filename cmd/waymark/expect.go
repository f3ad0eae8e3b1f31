// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"

	"github.com/rogpeppe/go-internal/diff"
)

// Bounds of what a difference shows.
const (
	diffContext = 3       // lines before it, as diff -u has
	diffWindow  = 1 << 20 // bytes that are compared from the first difference on
	diffLines   = 200     // that are printed
)

// expectation compares what is written to it with a file, line by line. From
// the first difference on it keeps a window of both, for a diff.
type expectation struct {
	path string
	json bool // lines are JSON objects
	file *os.File
	want *bufio.Reader

	same    int      // lines that were the same
	context [][]byte // the last of them
	partial []byte   // of a line that is not whole yet
	differs bool
	wanted  []byte // the line that was expected in place of got's first
	got     []byte // from the first difference on
	err     error
}

func newExpectation(path string, asJSON bool) (*expectation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read what to expect: %w", err)
	}
	return &expectation{path: path, json: asJSON, file: f, want: bufio.NewReader(f)}, nil
}

func (e *expectation) close() { e.file.Close() }

// Write implements io.Writer.
func (e *expectation) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			e.partial = append(e.partial, b...)
			return n, e.err
		}
		e.line(append(e.partial, b[:i+1]...))
		e.partial, b = e.partial[:0], b[i+1:]
	}
}

// line takes the next line of what is compared.
func (e *expectation) line(got []byte) {
	if e.differs {
		if len(e.got) < diffWindow {
			e.got = append(e.got, got...)
		}
		return
	}
	want := e.next()
	if bytes.Equal(want, got) {
		e.same++
		if len(e.context) == diffContext {
			e.context = e.context[1:]
		}
		e.context = append(e.context, want)
		return
	}
	e.differs, e.wanted, e.got = true, want, bytes.Clone(got)
}

// next is the next expected line, empty at the end.
func (e *expectation) next() []byte {
	line, err := e.want.ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) && e.err == nil {
		e.err = fmt.Errorf("read what to expect: %w", err)
	}
	return line
}

// judge prints to w how what was written differs from the file, and returns
// that as a problem.
func (e *expectation) judge(w io.Writer) error {
	if len(e.partial) > 0 {
		e.line(e.partial)
	}
	if !e.differs {
		e.wanted = e.next()
		e.differs = len(e.wanted) > 0
	}
	for want := e.wanted; len(want) > 0 && len(e.wanted) < diffWindow; {
		want = e.next()
		e.wanted = append(e.wanted, want...)
	}
	if e.err != nil || !e.differs {
		return e.err
	}
	if _, err := w.Write(e.diff()); err != nil {
		return err
	}
	return problem(fmt.Errorf("the replay differs from what was expected, first in line %d", e.same+1))
}

// hunkAt is where a hunk of a unified diff says which lines it is about.
var hunkAt = regexp.MustCompile(`(?m)^@@ -(\d+),(\d+) \+(\d+),(\d+) @@$`)

// diff is the difference as diff -u prints it.
func (e *expectation) diff() []byte {
	want, got := e.wanted, e.got
	first := e.same
	if e.json {
		want, got = indented(want), indented(got)
	} else {
		before := bytes.Join(e.context, nil)
		want, got = append(bytes.Clone(before), want...), append(before, got...)
		first -= len(e.context)
	}
	out := diff.Diff(e.path, want, "replay", got)
	_, out, _ = bytes.Cut(out, []byte("\n")) // "diff FILE replay"
	out = hunkAt.ReplaceAllFunc(out, func(at []byte) []byte {
		if e.json {
			return []byte("@@ fields, one a line @@")
		}
		m := hunkAt.FindSubmatch(at)
		return fmt.Appendf(nil, "@@ -%s,%s +%s,%s @@", shifted(m[1], first), m[2], shifted(m[3], first), m[4])
	})
	lines := bytes.SplitAfter(out, []byte("\n"))
	if n := len(lines) - 1; n > diffLines {
		return fmt.Appendf(bytes.Join(lines[:diffLines], nil), "... and %d lines more\n", n-diffLines)
	}
	if len(e.wanted) >= diffWindow || len(e.got) >= diffWindow {
		out = fmt.Appendf(out, "... compared for %d KiB from the first difference on\n", diffWindow>>10)
	}
	return out
}

// shifted is a line number by that many lines further down.
func shifted(number []byte, by int) string {
	n, _ := strconv.Atoi(string(number)) // the expression matches digits alone
	return strconv.Itoa(n + by)
}

// indented has each field of JSON lines in a line of its own; what is no JSON
// stays as it is.
func indented(lines []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(lines) {
		mark := out.Len()
		if err := json.Indent(&out, line, "", "  "); err != nil {
			out.Truncate(mark)
			out.Write(line)
		}
	}
	return out.Bytes()
}
