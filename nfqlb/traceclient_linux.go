// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tracePatience is how long a trace client waits for its turn, and then for
// the balancer's first words, before it lets the next client at the shared
// file. nfqlb says nothing while it serves another client.
const tracePatience = 2 * time.Second

// Trace copies what the balancer at address in the calling thread's network
// namespace, ours or nfqlb, traces for mask to w, until ctx or the balancer
// ends. dir is where the balancer's shared memory is. Without a balancer the
// error is ErrNoBalancer.
func Trace(ctx context.Context, address, dir string, mask TraceMask, w io.Writer) error {
	network, address, err := splitAddress("--trace-address", address)
	if err != nil {
		return err
	}
	f, err := openTraceConfig(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lockWithin(ctx, f, 2*tracePatience); err != nil {
		return err
	}
	var before TraceMask
	if err := changeTraceConfig(f, func(c *TraceConfig) { before, c.Mask = c.Mask, mask }); err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		// Not for long: who comes next would get our mask.
		err = errors.Join(err, changeTraceConfig(f, func(c *TraceConfig) { c.Mask = before }))
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w; start `waymark lb serve` or enter the balancer's namespace", ErrNoBalancer)
	}
	if err != nil {
		return fmt.Errorf("trace socket: %w", err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(tracePatience))
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	buf := make([]byte, 64<<10)
	for first := true; ; first = false {
		n, err := conn.Read(buf)
		if first {
			f.Close() // the next client's turn
			conn.SetReadDeadline(time.Time{})
		}
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil || errors.Is(err, io.EOF):
			return nil
		case first && errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return fmt.Errorf("trace socket: %w", err)
		}
	}
}

// lockWithin waits for a lock without being stuck for good.
func lockWithin(ctx context.Context, f *os.File, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("trace settings: lock: %w", err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("trace settings: another client holds %s locked; try again", f.Name())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
