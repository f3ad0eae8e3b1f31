// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"waymark/tracer"
)

// liveFlags are the flags that all commands that look at live traffic share.
type liveFlags struct {
	output      string
	count       int
	duration    time.Duration
	write       string
	netns       []string
	pods        []string
	devices     []string
	mark        string
	snapLen     int
	hooks       []string
	verbose     bool
	followReply bool
	ring        string
	cost        bool
	budget      string
}

func (f *liveFlags) add(fs *pflag.FlagSet) {
	fs.StringVarP(&f.output, "output", "o", "text", "text or json (one object per line)")
	fs.IntVarP(&f.count, "count", "c", 0, "stop after `N` results")
	fs.DurationVar(&f.duration, "for", 0, "stop after this long, such as 10s")
	fs.StringVarP(&f.write, "write", "w", "", "also record to `FILE` (pcapng)")
	fs.StringArrayVar(&f.netns, "netns", nil, "only this network namespace: `NAME|PATH|PID` (repeatable)")
	fs.StringArrayVar(&f.pods, "pod", nil, "only this pod: `NAMESPACE/NAME` (repeatable)")
	fs.StringSliceVarP(&f.devices, "interface", "i", nil, "devices to attach to (`PATTERN`,...), default "+strings.Join(tracer.DefaultDevices, ","))
	fs.StringVar(&f.mark, "mark", "", "only packets that have `MARK[/MASK]` somewhere on the way")
	fs.IntVarP(&f.snapLen, "snaplen", "s", 96, "bytes of each packet to keep")
	fs.StringSliceVar(&f.hooks, "hooks", nil, "hook `GROUPS` to attach: all, or of "+strings.Join(tracer.Groups, ",")+" (default "+strings.Join(tracer.DefaultGroups, ",")+")")
	fs.BoolVar(&f.followReply, "follow-reply", true, "follow the packets of the other direction as well")
	fs.StringVar(&f.ring, "ring", "64M", "`SIZE` of the buffer in the kernel, a power of two: K or M bytes")
	fs.BoolVar(&f.cost, "cost", false, "at the end, say what each hook cost")
	fs.StringVar(&f.budget, "budget", "", "leave out hooks, then flows, to cost at most `P%` of one CPU")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "say more about what waymark does")
}

// defaultLiveFlags are the flags of a command that is given none.
func defaultLiveFlags() (f liveFlags) {
	f.add(pflag.NewFlagSet("", pflag.ContinueOnError))
	return f
}

// check refuses what cannot be meant.
func (f *liveFlags) check() error {
	if f.output != "text" && f.output != "json" {
		return fmt.Errorf("-o %s: choose text or json", f.output)
	}
	if f.count < 0 {
		return fmt.Errorf("-c %d: give a positive number, or 0 for no limit", f.count)
	}
	if f.duration < 0 {
		return fmt.Errorf("--for %s: give a positive duration", f.duration)
	}
	if f.snapLen < 14 || f.snapLen > 16384 {
		return fmt.Errorf("-s %d: give 14 to 16384 bytes", f.snapLen)
	}
	if slices.Contains(f.hooks, "all") {
		f.hooks = tracer.Groups
	}
	for _, g := range f.hooks {
		if !slices.Contains(tracer.Groups, g) {
			return fmt.Errorf("--hooks %s: choose all, or from %s", g, strings.Join(tracer.Groups, ", "))
		}
	}
	if err := tracer.CheckPatterns(f.devices); err != nil {
		return err
	}
	if _, err := parseRing(f.ring); err != nil {
		return err
	}
	if _, err := parseBudget(f.budget); err != nil {
		return err
	}
	_, _, err := parseMark(f.mark)
	return err
}

// The smallest ring the kernel makes is a page; the largest here is what its
// 32-bit offsets leave room for by a wide margin.
const (
	ringMin = 4 << 10
	ringMax = 1 << 30
)

// parseRing parses a ring's size, in bytes.
func parseRing(s string) (uint32, error) {
	shift := 0
	digits := s
	switch {
	case strings.HasSuffix(s, "K"):
		digits, shift = s[:len(s)-1], 10
	case strings.HasSuffix(s, "M"):
		digits, shift = s[:len(s)-1], 20
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	n <<= shift
	if err != nil || n&(n-1) != 0 || n < ringMin || n > ringMax {
		return 0, fmt.Errorf("--ring %s: give a power of two from 4K to 1024M", s)
	}
	return uint32(n), nil
}

// parseBudget parses a share of one CPU such as 2% or 0.5%, in percent. An empty
// string is no budget: 0.
func parseBudget(s string) (percent float64, err error) {
	if s == "" {
		return 0, nil
	}
	digits, isShare := strings.CutSuffix(s, "%")
	percent, err = strconv.ParseFloat(digits, 64)
	if err != nil || !isShare || !(percent > 0 && percent <= 100) { // not even NaN
		return 0, fmt.Errorf("--budget %s: give a share of one CPU above 0%% and up to 100%%, such as 2%%", s)
	}
	return percent, nil
}

// newLog logs for people, on stderr.
func newLog(verbose bool) zerolog.Logger {
	level := zerolog.InfoLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: !colorful(os.Stderr), PartsExclude: []string{zerolog.TimestampFieldName}}).
		Level(level)
}
