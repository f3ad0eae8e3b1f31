// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	"waymark/decoder"
)

const recordHelp = `usage: waymark record [flags] [FILTER...] -w FILE

Records matching packets, and all that explains their way, to a pcapng file.
Wireshark opens it; waymark replay prints the journeys. Application data is left
out unless --payload full. With --rotate the files are NAME-00001.pcapng, -00002
and so on, counting on from those that are there; replay takes them all together.

examples:
  waymark record -w vip.pcapng tcp any 10.0.0.1:5000
  waymark record -w ring.pcapng --rotate 100MB --keep 10 'host 10.0.0.1'
  waymark record -w lb.pcapng --anonymize --netns wm-meridio-lb 'udp port 5000'

`

func runRecord(args []string) error {
	var l live
	fs := newFlags("record", recordHelp)
	l.flags.add(fs)
	rotate := fs.String("rotate", "", "begin a new file after `SIZE`: K, M or G bytes")
	fs.IntVar(&l.recording.keep, "keep", 0, "with --rotate, remove the oldest so that there are `N` files (default all)")
	payload := fs.String("payload", "headers", "`HOW` much of packets to record: off, headers, or full (up to --snaplen)")
	fs.BoolVar(&l.recording.anonymize, "anonymize", false, "record other addresses, with the same prefixes in common")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if err := l.flags.check(); err != nil {
		return err
	}
	if l.flags.write == "" {
		return errors.New("record needs -w FILE")
	}
	if err := l.recording.parse(*rotate, *payload); err != nil {
		return err
	}
	l.filter, l.log = fs.Args(), newLog(l.flags.verbose)
	l.progress = newProgress(os.Stderr, isTerminal(os.Stderr))
	if l.flags.count > 0 {
		// Journeys are counted by stitching them, as trace does.
		s := newStitcher(decoder.Options{Emit: printNothing})
		l.sinks, l.done = []decoder.Sink{s}, s.Done
	}
	return l.run()
}

// parse takes the flags that are more than a number.
func (o *recordingOptions) parse(rotate, payload string) (err error) {
	if o.rotate, err = parseRotate(rotate); err != nil {
		return err
	}
	switch {
	case o.keep < 0:
		return fmt.Errorf("--keep %d: give a positive number, or 0 for all", o.keep)
	case o.keep > 0 && o.rotate == 0:
		return errors.New("--keep is for files that --rotate SIZE begins: give both")
	}
	if o.payload, err = decoder.ParsePayload(payload); err != nil {
		return fmt.Errorf("--payload: %w", err)
	}
	if o.anonymize && o.payload == decoder.PayloadFull {
		return errors.New("--anonymize: payload may hold addresses in any form, so leave out --payload full")
	}
	return nil
}

// The smallest file: what explains the packets is at the head of each.
const rotateMin = 64 << 10

// parseRotate parses the size of a file, in bytes: a number with K, M or G (or KB,
// MB, GB), by 1024 each. An empty string is no limit: 0.
func parseRotate(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits, shift := strings.TrimSuffix(s, "B"), 0
	for i, unit := range []string{"K", "M", "G"} {
		if d, ok := strings.CutSuffix(digits, unit); ok {
			digits, shift = d, 10*(i+1)
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift || n<<shift < rotateMin {
		return 0, fmt.Errorf("--rotate %s: give a size such as 100MB, 64K at least", s)
	}
	return n << shift, nil
}
