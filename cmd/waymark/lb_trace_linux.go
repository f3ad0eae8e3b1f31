// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// Watching a running balancer decide.

func lbTrace(args []string) error {
	f := lbFlags("trace", `--selection LIST | --mask MASK

Prints what the balancer traces until it ends or a signal comes. The list is of
log,packet,frag,flow-conf,sctp,target,flows; flows are the packets that match a
flow set with trace-flow-set.
  waymark lb trace-flow-set --name me --srcs 20.0.0.7/32 && waymark lb trace --selection flows
  waymark lb trace --selection packet,frag
  waymark lb trace --mask 0x7f
`)
	mask := f.String("mask", "", "what to trace, as bits: 1 log, 2 packet, 4 frag and so on")
	selection := f.String("selection", "", "what to trace, as a list of names")
	address := f.String("trace-address", nfqlb.TraceAddress, "where the balancer serves trace clients, unix:NAME or tcp:HOST:PORT")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	if f.Changed("mask") == f.Changed("selection") {
		return fmt.Errorf("lb trace needs one of --selection and --mask; see --help")
	}
	var wanted nfqlb.TraceMask
	if f.Changed("mask") {
		n, err := strconv.ParseUint(*mask, 0, 32)
		if err != nil {
			return fmt.Errorf("--mask %q is no number of 32 bits", *mask)
		}
		wanted = nfqlb.TraceMask(n)
	} else {
		var err error
		if wanted, err = nfqlb.ParseTraceSelection(*selection); err != nil {
			return fmt.Errorf("--selection: %w", err)
		}
	}
	if err := nfqlb.CheckTraceAddress(*address); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	fmt.Printf("Mask=0x%08x\n", wanted)
	if err := nfqlb.Trace(ctx, *address, nfqlb.ShmDir, wanted, os.Stdout); err != nil {
		return lbTraceError(err)
	}
	return nil
}

func lbLogLevel(args []string) error {
	f := lbFlags("loglevel", `[LEVEL]

Prints the balancers' log level, or sets it: 3 errors, 4 warnings, 5 notices,
6 information, 7 everything.`)
	if err := parseLB(f, args, "LEVEL"); err != nil {
		return err
	}
	if f.NArg() > 1 {
		return fmt.Errorf("lb loglevel takes one level; see --help")
	}
	if f.NArg() == 1 {
		level, err := strconv.ParseInt(f.Arg(0), 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no log level like 5", f.Arg(0))
		}
		if err := nfqlb.SetLogLevel(nfqlb.ShmDir, int(level)); err != nil {
			return lbTraceError(err)
		}
	}
	c, err := nfqlb.ReadTraceConfig(nfqlb.ShmDir)
	if err != nil {
		return lbTraceError(err)
	}
	fmt.Printf("loglevel=%d\n", c.LogLevel)
	return nil
}

func lbTraceError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return unsupported(err)
	}
	return lbControlError(err)
}
