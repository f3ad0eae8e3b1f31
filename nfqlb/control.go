// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ControlAddress is where the balancer listens: an abstract unix socket, one
// for each network namespace. The environment variable NFQLB_FLOW_ADDRESS
// changes it for server and clients alike ("unix:NAME" or "tcp:HOST:PORT").
const ControlAddress = "unix:nfqlb"

const (
	clientPatience = 10 * time.Second       // the server waits for a client's request
	maxClients     = 64                     // served at a time
	acceptPause    = 100 * time.Millisecond // after a failed accept
)

func controlAddress() (network, address string, err error) {
	a := os.Getenv("NFQLB_FLOW_ADDRESS")
	if a == "" {
		a = ControlAddress
	}
	return splitAddress("NFQLB_FLOW_ADDRESS", a)
}

// splitAddress takes an address of nfqlb's kind apart; what says whose it is.
func splitAddress(what, a string) (network, address string, err error) {
	network, address, _ = strings.Cut(a, ":")
	switch {
	case network == "unix" && address != "":
		return network, "@" + address, nil
	case network == "tcp" && address != "":
		return network, address, nil
	}
	return "", "", fmt.Errorf("%s %q is neither unix:NAME nor tcp:HOST:PORT", what, a)
}

// ListenControl opens the control socket in the calling thread's network
// namespace. It fails with EADDRINUSE if a balancer is there already.
func ListenControl() (net.Listener, error) {
	network, address, err := controlAddress()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen(network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another balancer serves this network namespace, stop it first or take its place with serve --takeover: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// ServeControl answers commands on l until ctx ends, then closes l and waits
// for the commands under way.
func (b *Balancer) ServeControl(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, maxClients)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("control socket: %w", err)
		}
		if err != nil {
			// Out of file descriptors, mostly. That is no reason to stop
			// balancing.
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		places <- struct{}{} // free again within clientPatience
		clients.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			// A client that says nothing must not hold up the end.
			defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
			conn.SetDeadline(time.Now().Add(clientPatience))
			cmd, err := ReadCommand(conn)
			if err != nil {
				conn.Write(reply(err.Error()))
				return
			}
			if cmd.Action == takeoverAction && b.offer != nil {
				b.offer(conn)
				return
			}
			answer := b.answer(cmd)
			if text, isReply := strings.CutSuffix(string(answer), "\x00"); isReply {
				b.tracef(TraceFlowConf, "writeReply [%s]\n", text)
			}
			conn.Write(answer)
		})
	}
}

// answer does what cmd says.
func (b *Balancer) answer(cmd *Command) []byte {
	switch cmd.Action {
	case "set":
		if err := b.SetFlow(cmd.Flow); err != nil {
			return reply(err.Error())
		}
		return reply("")
	case "delete":
		if cmd.Flow.Name == "" {
			return reply("no name")
		}
		// Deleting what is not there is well, as in nfqlb: the caller has
		// what it wants.
		if err := b.DeleteFlow(cmd.Flow.Name); err != nil && !errors.Is(err, ErrNoFlow) {
			return reply(err.Error())
		}
		return reply("")
	case "list":
		return formatList(b.Flows(cmd.Flow.Name), cmd.Flow.Name)
	case "list-names":
		return FormatNames(b.Flows(""))
	case "trace-set", "trace-delete", "trace-list", "trace-list-names":
		return b.answerTrace(cmd)
	case reloadAction:
		if err := b.reloadNow(cmd.Flow.Name); err != nil {
			return reply(err.Error())
		}
		return reply("")
	case "":
		return reply("no action")
	}
	return reply(fmt.Sprintf("action unknown: %q", cmd.Action))
}

// reply is OK or what failed, with the NUL that nfqlb's client prints up to.
func reply(failure string) []byte {
	if failure == "" {
		return []byte("OK\x00")
	}
	return []byte("FAIL: " + failure + "\x00")
}
