// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// TraceAddress is where a balancer serves trace clients: an abstract unix
// socket, one for each network namespace.
const TraceAddress = "unix:nfqlb-trace"

// CheckTraceAddress refuses what is no address of a trace socket.
func CheckTraceAddress(address string) error {
	_, _, err := splitAddress("--trace-address", address)
	return err
}

const maxTraceClients = 16

// ListenTrace opens the trace socket ("unix:NAME" or "tcp:HOST:PORT") in the
// calling thread's network namespace.
func ListenTrace(address string) (net.Listener, error) {
	network, address, err := splitAddress("--trace-address", address)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen(network, address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("another balancer is traced at this address, stop it or choose another --trace-address: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("trace socket: %w", err)
	}
	return l, nil
}

// ServeTrace serves trace clients on l until ctx ends, then closes l. What a
// client wants is read from the shared file in dir when it comes. A client
// that stops reading loses messages and holds up nobody.
func (b *Balancer) ServeTrace(ctx context.Context, l net.Listener, dir string) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, maxTraceClients)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("trace socket: %w", err)
		}
		if err != nil { // as in ServeControl
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.SetDeadline(time.Now().Add(time.Second))
			fmt.Fprintf(conn, "%d clients trace already\n", maxTraceClients)
			conn.Close()
			continue
		}
		clients.Go(func() {
			defer func() { <-places }()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			defer conn.Close()
			b.serveTraceClient(conn, dir)
		})
	}
}

func (b *Balancer) serveTraceClient(conn net.Conn, dir string) {
	config, err := ReadTraceConfig(dir)
	if err != nil {
		fmt.Fprintf(conn, "FAIL: %v\n", err)
		return
	}
	c := b.attachTrace(config.Mask)
	defer func() {
		// If it stays, later clients of nfqlb get more than they asked for.
		_ = clearTraceMask(dir, b.detachTrace(c))
	}()
	if _, err := fmt.Fprintf(conn, "Trace active, mask=0x%08x\n", config.Mask); err != nil {
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn.Read(make([]byte, 1)) // whatever it says ends it, as in nfqlb
		conn.Close()
	}()
	var buf []byte
	for {
		buf = b.trace.take(c, buf)
		if len(buf) == 0 {
			select {
			case <-c.wake:
				continue
			case <-gone:
				return
			}
		}
		if _, err := conn.Write(buf); err != nil {
			conn.Close()
			<-gone
			return
		}
	}
}
