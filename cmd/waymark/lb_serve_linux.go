// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"waymark/nfqlb"
)

// Running the balancer.

func lbServe(args []string) error {
	return lbServeFlows(lbFlags("serve", `[flags]

Runs in the foreground until SIGTERM or SIGINT, after which packets that wait
get their verdicts. Flows are set with flow-set;
their targets are tables made with init and activate, whose changes are
followed. Later fragments get the mark of their packet's first one; with --tun
those that come before it wait for it, else they are dropped. The tun device
brings packets from everywhere: its reverse path filter must not be strict.
With --fastpath the destinations of flows must not contain addresses that are
not queued to the balancer.
  waymark lb serve --queue 0:3
  waymark lb serve --queue 0:3 --qlength 1024 --promiscuous-ping --hash-mode 0
  ip netns exec lb waymark lb serve --queue 2
  waymark lb serve --queue 0:3 --takeover   # from a running one, with its flags
  waymark lb serve --tun nfqlb0 --lbshm balancers --metrics :9100
  waymark lb serve --queue 0:3 --fastpath on --fastpath-device nsm-1
`), args, nil)
}

// lbServeFlows runs the balancer with the options in args, which it adds to f.
// fixed, unless nil, are the flows that it starts with and lives for.
func lbServeFlows(f *pflag.FlagSet, args []string, fixed func() []nfqlb.FlowSpec) error {
	queue := f.String("queue", "2", "NFQUEUE number, or a range like 0:3")
	length := f.Uint32("qlength", 1024, "packets that wait in each queue")
	f.Uint32Var(length, "qlen", 1024, "the same")
	ping := f.Bool("promiscuous-ping", false, "accept any ICMP whose addresses match a flow")
	mode := f.Int("hash-mode", int(nfqlb.HashSCTPPorts), "0: hash everything, 1: of SCTP hash the ports alone")
	noTarget := f.Int("notargets-fwmark", -1, "accept packets without a target, with this mark")
	noFlow := f.Int("nolb-fwmark", -1, "accept packets that match no flow, with this mark")
	fragments := lbFragmentFlags(f)
	fast := lbFastPathFlags(f)
	seen := lbSeenFlags(f)
	failOpen := f.Bool("fail-open", false, "when a queue is full, let packets pass without a mark instead of dropping them")
	life := lbLifeFlags(f)
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	if err := seen.check(); err != nil {
		return err
	}
	if err := fragments.check(); err != nil {
		return err
	}
	if err := fast.check(); err != nil {
		return err
	}
	if *mode != int(nfqlb.HashTuple) && *mode != int(nfqlb.HashSCTPPorts) {
		return fmt.Errorf("--hash-mode %d is neither 0 nor 1", *mode)
	}
	first, last, err := lbQueues(*queue)
	if err != nil {
		return err
	}
	var flows []nfqlb.FlowSpec
	if fixed != nil {
		flows = fixed()
		seen.optional = true
		life.state = lbStateNone
	}
	return runBalancer(nfqlb.Config{
		HashMode: nfqlb.HashMode(*mode), PromiscuousPing: *ping, NoFlowMark: *noFlow, NoTargetMark: *noTarget,
	}, nfqlb.QueueConfig{First: first, Last: last, Length: *length, CopyRange: fragments.copyRange(), FailOpen: *failOpen}, fragments, fast, seen, life, flows)
}

func lbQueues(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, ":")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || b < a {
		return 0, 0, fmt.Errorf("--queue %q is neither a number nor a range like 0:3", s)
	}
	return uint16(a), uint16(b), nil
}

// runBalancer runs the control socket, the watch on the tables and the queues until
// a signal comes or one of them fails.
func runBalancer(c nfqlb.Config, queues nfqlb.QueueConfig, fragments *lbFragments, fast *lbFastPath, seen *lbSeen, life *lbLife, flows []nfqlb.FlowSpec) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	b := nfqlb.NewBalancer(c, func(name string) (*nfqlb.Table, error) { return nfqlb.LoadTable(nfqlb.ShmDir, name) })
	for _, f := range flows {
		if err := b.SetFlow(f); err != nil {
			return err
		}
	}
	log := lbLogger(b)
	if err := life.begin(ctx, b, log); err != nil {
		return err
	}
	defer life.end()
	endFragments, err := fragments.start(b, log, life)
	if err != nil {
		return err
	}
	defer endFragments()
	control, err := life.listen(nfqlb.ControlSocket, nfqlb.ListenControl)
	if err != nil && !seen.without(err, log) {
		return unsupported(err)
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	run := func(part func() error) {
		wait.Go(func() {
			if err := part(); err != nil {
				mu.Lock()
				failures = append(failures, err)
				mu.Unlock()
			}
			cancel()
		})
	}
	engine := nfqlb.NewEngine(b, queues)
	// Nothing runs before everything is open: a balancer that is taken over
	// ends then.
	var parts []func() error
	later := func(part func() error) { parts = append(parts, part) }
	fastMetrics, endFast, err := fast.start(ctx, b, queues, log, later)
	if err == nil {
		err = seen.start(ctx, b, func() []byte { return append(engine.Metrics(), fastMetrics()...) }, later, life, log)
	}
	if err == nil {
		err = life.inherit(b, engine, log, cancel)
	}
	if err != nil {
		if control != nil {
			control.Close()
		}
		endFast()
		return err
	}
	for _, part := range parts {
		run(part)
	}
	if control != nil {
		run(func() error { return b.ServeControl(ctx, control) })
	}
	run(func() error {
		return b.WatchShared(ctx, nfqlb.ShmDir, func(name string, err error) {
			if err != nil {
				log.Warn().Err(err).Str("table", name).Msg("the table cannot be read, its last targets stay")
				return
			}
			log.Info().Str("table", name).Msg("targets changed")
		})
	})
	run(func() error {
		return engine.Run(ctx, func() {
			log.Info().Uint16("first_queue", queues.First).Uint16("last_queue", queues.Last).
				Int("hash_mode", int(c.HashMode)).Bool("promiscuous_ping", c.PromiscuousPing).
				Int("receive_buffer", engine.ReceiveBuffer()).Msg("ready")
		})
	})
	wait.Wait()
	endFast()
	log.Info().Interface("engine", engine.Stats()).Interface("balancer", b.Stats()).Interface("fragments", b.FragStats()).Msg("stopped")
	if err := errors.Join(failures...); err != nil {
		return unsupported(err)
	}
	return nil
}
