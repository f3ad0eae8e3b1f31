// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"

	"waymark/decoder"
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
	out := newPrinter(os.Stdout, l.flags.output, *flows, false)
	s := newStitcher(decoder.Options{Emit: out.journey, EmitStatus: out.status})
	l.sinks, l.done = []decoder.Sink{s, out}, func() bool { return s.Done() || out.err != nil }
	if err := l.run(); err != nil {
		out.flush()
		return err
	}
	s.Flush()
	return out.finish(s.Status())
}
