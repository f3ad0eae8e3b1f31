// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"waymark/decoder"
)

const dropsHelp = `usage: waymark drops [flags] [FILTER...]

Shows packets that the kernel drops: reason, place, packet, and what to do.
It hooks drops only, so packets that are not dropped cost nothing.

examples:
  waymark drops
  waymark drops --for 5s -o json 'host 10.0.0.1'
  waymark drops --fail --for 10s --netns wm-meridio-lb

`

func runDrops(args []string) error {
	l := live{groups: []string{"drop"}}
	fs := newFlags("drops", dropsHelp)
	l.flags.add(fs)
	fail := fs.Bool("fail", false, "exit with 1 if there was any drop")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if err := l.flags.check(); err != nil {
		return err
	}
	l.filter, l.log = fs.Args(), newLog(l.flags.verbose)
	out := newPrinter(os.Stdout, l.flags.output, false, false)
	s := newStitcher(decoder.Options{EmitDrop: out.drop, EmitStatus: out.status})
	l.sinks, l.done = []decoder.Sink{s, out}, func() bool { return s.Done() || out.err != nil }
	if err := l.run(); err != nil {
		out.flush()
		return err
	}
	s.Flush()
	if err := out.finish(s.Status()); err != nil {
		return err
	}
	if n := s.Stats().Drops; *fail && n > 0 {
		return problem(fmt.Errorf("%d packets were dropped", n))
	}
	return nil
}
