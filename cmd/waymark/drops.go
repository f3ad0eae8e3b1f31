// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"

	"waymark/decoder"
)

const dropsHelp = `usage: waymark drops [flags] [FILTER...]

Shows packets that the kernel drops: reason, place, packet, and what to do.
It hooks drops, and connections that cannot begin: packets that are not dropped
cost nothing. Drops that differ in time and source port alone are told once, then
counted.

examples:
  waymark drops
  waymark drops --top --metrics :9101
  waymark drops --for 5s -o json 'host 10.0.0.1'
  waymark drops --fail --for 10s --netns wm-meridio-lb

`

func runDrops(args []string) error {
	l := live{groups: []string{"connect", "drop"}}
	fs := newFlags("drops", dropsHelp)
	l.flags.add(fs)
	var how dropFlags
	how.add(fs)
	fail := fs.Bool("fail", false, "exit with 1 if there was any drop")
	fs.BoolVar(&l.stack, "stack", false, "show the kernel's stack of each drop")
	metrics := fs.String("metrics", "", "serve Prometheus text at this `ADDR`ess, /metrics")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if err := l.flags.check(); err != nil {
		return err
	}
	if err := how.check(fs, l.flags.output); err != nil {
		return err
	}
	if err := checkMetrics(*metrics); err != nil {
		return err
	}
	l.counts = how.collapse || how.top
	l.filter, l.log = fs.Args(), newLog(l.flags.verbose)
	out := newDropPrinter(os.Stdout, l.flags.output, how, false)
	o := out.options()
	var s *decoder.Stitcher
	if *metrics != "" {
		m, err := startDropMetrics(*metrics, l.log)
		if err != nil {
			return err
		}
		defer m.stop()
		o = m.watch(o, func() *decoder.Status { return s.Status() })
	}
	s = newStitcher(o)
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
