// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"waymark/decoder"
)

const recordHelp = `usage: waymark record [flags] [FILTER...] -w FILE

Records matching packets, and all that explains their way, to a pcapng file.
Wireshark opens it; waymark replay prints the journeys.

examples:
  waymark record -w vip.pcapng tcp any 10.0.0.1:5000
  waymark record -w all.pcapng --for 30s 'host 10.0.0.1'
  waymark record -w lb.pcapng --netns wm-meridio-lb 'udp port 5000'

`

func runRecord(args []string) error {
	var l live
	fs := newFlags("record", recordHelp)
	l.flags.add(fs)
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if err := l.flags.check(); err != nil {
		return err
	}
	if l.flags.write == "" {
		return errors.New("record needs -w FILE")
	}
	l.filter, l.log = fs.Args(), newLog(l.flags.verbose)
	end := "\n"
	if isTerminal(os.Stderr) {
		end = "\r"
	}
	l.progress = func(records, lost uint64, bytes int64) {
		fmt.Fprintf(os.Stderr, "recorded %d records, %d KiB, lost %d%s", records, bytes>>10, lost, end)
	}
	if l.flags.count > 0 {
		// Journeys are counted by stitching them, as trace does.
		s := newStitcher(decoder.Options{Emit: printNothing})
		l.sinks, l.done = []decoder.Sink{s}, s.Done
	}
	return l.run()
}
