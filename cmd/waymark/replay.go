// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"waymark/decoder"
)

const replayHelp = `usage: waymark replay [-o text|json] [--flows] [--mark M[/MASK]] [--expect FILE]
                      FILE

Stitches a recording again and prints what the live trace printed. Needs no
privileges and no particular kernel.

examples:
  waymark replay vip.pcapng
  waymark replay --mark 5048 vip.pcapng
  waymark replay -o json --expect vip.json vip.pcapng

`

func runReplay(args []string) error {
	fs := newFlags("replay", replayHelp)
	output := fs.StringP("output", "o", "text", "text or json (one object per line)")
	flows := fs.Bool("flows", false, "summarise per flow instead of printing every journey")
	drops := fs.Bool("drops", false, "print drops only, as `waymark drops` would have")
	mark := fs.String("mark", "", "only packets that have `MARK[/MASK]` somewhere on the way")
	expect := fs.String("expect", "", "compare with what is in `FILE` instead of printing; exit with 1 if it differs")
	if err := parseFlags(fs, args, 1); err != nil {
		return err
	}
	if *output != "text" && *output != "json" {
		return fmt.Errorf("-o %s: choose text or json", *output)
	}
	if fs.NArg() == 0 {
		return errors.New("replay needs a recording: waymark replay FILE")
	}
	o := replayOptions{output: *output, flows: *flows, drops: *drops}
	var err error
	if o.mark, o.markMask, err = parseMark(*mark); err != nil {
		return err
	}
	if *expect == "" {
		return replay(fs.Arg(0), os.Stdout, o)
	}
	want, err := os.ReadFile(*expect)
	if err != nil {
		return fmt.Errorf("read what to expect: %w", err)
	}
	var got bytes.Buffer
	if err := replay(fs.Arg(0), &got, o); err != nil {
		return err
	}
	return compare(want, got.Bytes())
}

// replayOptions are what to print of a recording; markMask 0 is any mark.
type replayOptions struct {
	output         string // text or json
	flows, drops   bool
	mark, markMask uint32
}

func replay(path string, w io.Writer, o replayOptions) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	defer f.Close()
	out := newPrinter(w, o.output, o.flows)
	opts := decoder.Options{Mark: o.mark, MarkMask: o.markMask, EmitStatus: out.status}
	if o.drops {
		opts.EmitDrop = out.drop
	} else {
		opts.Emit = out.journey
	}
	s := newStitcher(opts)
	result, err := decoder.Replay(f, s)
	s.Flush()
	if err != nil {
		out.flush()
		return fmt.Errorf("%s: %w", path, err)
	}
	if result.Truncated {
		fmt.Fprintf(os.Stderr, "waymark: %s is cut off at byte %d: replayed up to there\n", path, result.Offset)
	}
	return out.finish(s)
}

// compare tells the first line where two outputs differ.
func compare(want, got []byte) error {
	w, g := bytes.Split(want, []byte("\n")), bytes.Split(got, []byte("\n"))
	for i := range max(len(w), len(g)) {
		var a, b []byte
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if !bytes.Equal(a, b) {
			fmt.Fprintf(os.Stdout, "line %d\n- %s\n+ %s\n", i+1, a, b)
			return problem(fmt.Errorf("the replay differs from what was expected, first in line %d", i+1))
		}
	}
	return nil
}
