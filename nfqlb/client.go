// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// ErrNoBalancer says that no balancer listens in this network namespace.
var ErrNoBalancer = errors.New("no balancer listens in this network namespace")

// maxReply bounds what a client takes from a server: some ten thousand flows.
const maxReply = 64 << 20

// Do sends a command to the balancer in the calling thread's network
// namespace, ours or nfqlb, and returns its whole answer. Without a balancer
// the error is ErrNoBalancer.
func Do(ctx context.Context, cmd *Command) ([]byte, error) {
	request, err := cmd.Encode()
	if err != nil {
		return nil, err
	}
	network, address, err := controlAddress()
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w; start `waymark lb serve` or enter the balancer's namespace", ErrNoBalancer)
	}
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write(request); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxReply))
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("answer of the balancer: %w", err)
	}
	return answer, nil
}

// SetFlow sets a flow of the balancer in this network namespace.
func SetFlow(ctx context.Context, spec FlowSpec) error {
	return doOK(ctx, &Command{Action: "set", Flow: spec})
}

// DeleteFlow deletes a flow of the balancer in this network namespace.
func DeleteFlow(ctx context.Context, name string) error {
	return doOK(ctx, &Command{Action: "delete", Flow: FlowSpec{Name: name}})
}

// reloadAction is ours: nfqlb needs none, it looks into the table for every
// packet.
const reloadAction = "reload"

// ReloadTargets makes the balancer in this network namespace use the table
// name as it is now, and returns when no packet that it placed by an older one
// is still on its way out. A target that was taken out can be shut down then.
// Without a balancer, or with nfqlb, there is nothing to do.
func ReloadTargets(ctx context.Context, name string) error {
	answer, err := Do(ctx, &Command{Action: reloadAction, Flow: FlowSpec{Name: name}})
	if errors.Is(err, ErrNoBalancer) {
		return nil
	}
	if err != nil {
		return err
	}
	if strings.Contains(string(answer), "action unknown") {
		return nil
	}
	return checkOK(answer)
}

// ListFlows lists the flows of the balancer in the calling thread's network
// namespace: lock the thread before entering one.
func ListFlows(ctx context.Context) ([]FlowStatus, error) {
	answer, err := Do(ctx, &Command{Action: "list"})
	if err != nil {
		return nil, err
	}
	return ParseFlows(answer)
}

func doOK(ctx context.Context, cmd *Command) error {
	answer, err := Do(ctx, cmd)
	if err != nil {
		return err
	}
	return checkOK(answer)
}

// checkOK is the failure that an answer tells of, if it does.
func checkOK(answer []byte) error {
	text := strings.TrimRight(string(answer), "\x00\n")
	if strings.HasPrefix(text, "OK") {
		return nil
	}
	if text == "" {
		text = "it closed the connection"
	}
	return fmt.Errorf("the balancer refused: %s", strings.TrimPrefix(text, "FAIL: "))
}
