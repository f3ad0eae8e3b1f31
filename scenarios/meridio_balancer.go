// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The balancer of the Meridio lab: a process in lb, told what to do by its own
// commands, as Meridio's load balancer tells nfqlb
// (pkg/loadbalancer/nfqlb/nfqlb.go).

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	balancerRole = "balancer"

	// shmDir is where POSIX shared memory lives (shm_overview(7)).
	shmDir = "/dev/shm"

	meridioStream = "tshm-stream-a"
	meridioFlow   = meridioStream + "-flow-a"

	// meridioFlows is where our balancer keeps its flows.
	meridioFlows = shmDir + "/nfqlb-flows-meridio"

	// Table size and maximum number of targets; Meridio uses 100 places per
	// target, and nfqlb the next smaller prime.
	meridioM = 10000
	meridioN = 100

	// controlSocket is where nfqlb takes flow commands: an abstract unix
	// socket, thus one per network namespace.
	controlSocket = "@nfqlb"
)

// balancerPoll is how often the tables of /proc are read while the balancer
// starts: binding a queue raises no event anyone could wait for.
const balancerPoll = 2 * time.Millisecond

// balancerCommand is the command line for an nfqlb command.
func (w *World) balancerCommand(args ...string) []string {
	if w.record.Balancer != "" {
		return append([]string{w.record.Balancer}, args...)
	}
	return append([]string{w.record.Executable, "lb"}, args...)
}

// serveCommand is the command line that runs the balancer.
func (w *World) serveCommand() []string {
	queues := fmt.Sprintf("%d:%d", meridioQueue, meridioQueue+meridioQueues-1)
	if w.record.Balancer != "" {
		return w.balancerCommand("flowlb", "--promiscuous_ping", "--queue="+queues, "--qlength=1024", "--hash_mode=0")
	}
	return w.balancerCommand("serve", "--queue", queues, "--qlength", "1024", "--promiscuous-ping", "--hash-mode", "0",
		"--state", meridioFlows)
}

// startBalancer starts the balancer and configures it; one that runs is only
// given its flow again.
func (w *World) startBalancer(ctx context.Context) error {
	running, err := w.processesOf(balancerRole)
	if err != nil {
		return err
	}
	if len(running) > 0 {
		return w.setFlow(ctx)
	}
	c, err := w.spawn(balancerRole, meridioLB, nil, w.serveCommand()...)
	if err != nil {
		return err
	}
	if err := w.setTargets(ctx); err != nil {
		return err
	}
	if err := w.awaitBalancer(ctx, c); err != nil {
		return err
	}
	return w.setFlow(ctx)
}

// setTargets makes the stream's table, unless it is there: it outlives the
// balancer.
func (w *World) setTargets(ctx context.Context) error {
	if _, err := os.Stat(shmDir + "/" + meridioStream); err == nil {
		return nil
	}
	init := w.balancerCommand("init", "--ownfw=0", "--shm="+meridioStream,
		fmt.Sprintf("--M=%d", meridioM), fmt.Sprintf("--N=%d", meridioN))
	if _, err := w.run(ctx, meridioLB, init...); err != nil {
		return err
	}
	return w.activateTargets(ctx)
}

func (w *World) setFlow(ctx context.Context) error { return w.setFlowPorts(ctx, "5000-5003") }

// setFlowPorts sets the flow, or changes it, to serve these ports.
func (w *World) setFlowPorts(ctx context.Context, ports string) error {
	_, err := w.run(ctx, meridioLB, w.balancerCommand("flow-set", "--name="+meridioFlow,
		"--target="+meridioStream, "--prio=1", "--protocols=tcp,udp",
		"--dsts="+vip4Prefix.String()+","+vip6Prefix.String(), "--dports="+ports)...)
	return err
}

// deleteFlow deletes the flow; it may be gone already.
func (w *World) deleteFlow(ctx context.Context) error {
	_, failed := w.run(ctx, meridioLB, w.balancerCommand("flow-delete", "--name="+meridioFlow)...)
	if failed == nil {
		return nil
	}
	names, err := w.run(ctx, meridioLB, w.balancerCommand("flow-list-names")...)
	if err != nil {
		return errors.Join(failed, err)
	}
	if bytes.Contains(names, []byte(meridioFlow)) {
		return failed
	}
	return nil
}

// stopBalancer ends the balancer; it may have ended already.
func (w *World) stopBalancer() error {
	running, err := w.processesOf(balancerRole)
	errs := []error{err}
	for _, p := range running {
		errs = append(errs, p.kill())
	}
	return errors.Join(errs...)
}

func (w *World) processesOf(role string) ([]Process, error) {
	all, err := w.Processes()
	if err != nil {
		return nil, err
	}
	var found []Process
	for _, p := range all {
		if p.Role == role {
			found = append(found, p)
		}
	}
	return found, nil
}

// awaitBalancer waits until every queue has a listener and the control socket
// accepts.
func (w *World) awaitBalancer(ctx context.Context, c *child) error {
	tick := time.NewTicker(balancerPoll)
	defer tick.Stop()
	for {
		ready, err := w.balancerReady()
		if err != nil {
			return err
		}
		if ready {
			return nil
		}
		select {
		case <-tick.C:
		case <-c.exited:
			return c.failure()
		case <-ctx.Done():
			return fmt.Errorf("the balancer does not listen on queues %d-%d (its log is %s): %w",
				meridioQueue, meridioQueue+meridioQueues-1, c.log, ctx.Err())
		}
	}
}

func (w *World) balancerReady() (bool, error) {
	ready := false
	err := w.Inside(meridioLB, func() error {
		queues, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // the balancer loads its module
			return err
		}
		sockets, err := os.ReadFile("/proc/thread-self/net/unix")
		if err != nil {
			return err
		}
		bound := map[uint16]bool{}
		for _, q := range boundQueues(queues) {
			bound[q] = true
		}
		ready = listening(sockets, controlSocket)
		for q := uint16(meridioQueue); q < meridioQueue+meridioQueues; q++ {
			ready = ready && bound[q]
		}
		return nil
	})
	return ready, err
}

// boundQueues reads the queue numbers from nfnetlink_queue, their first column
// (net/netfilter/nfnetlink_queue.c seq_show). A queue is listed as long as a
// socket is bound to it.
func boundQueues(table []byte) []uint16 {
	var bound []uint16
	for line := range bytes.Lines(table) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(string(fields[0]), 10, 16); err == nil {
			bound = append(bound, uint16(n))
		}
	}
	return bound
}

// listening says whether a unix socket called path accepts connections: flag
// __SO_ACCEPTCON (0x10000), column 4 of /proc/net/unix.
func listening(table []byte, path string) bool {
	for line := range bytes.Lines(table) {
		fields := strings.Fields(string(line))
		if len(fields) != 8 || fields[7] != path {
			continue
		}
		flags, err := strconv.ParseUint(fields[3], 16, 32)
		if err == nil && flags&0x10000 != 0 {
			return true
		}
	}
	return false
}
