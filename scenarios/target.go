// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Targets: servers that say who they are. Each request is answered with one
// line, `NAME PEER BYTES`: the server's name, the client's address as the
// server sees it, and the size of the request.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// maxDatagram is more than the largest UDP payload (RFC 768).
	maxDatagram = 65536
	// idleTimeout ends a connection whose client is gone.
	idleTimeout = 2 * time.Minute
)

// readyFD is the file descriptor on which a target says that it listens: the
// first of exec.Cmd.ExtraFiles.
const readyFD = 3

// startTarget starts a server called name in node. The returned function waits
// until it listens.
func (w *World) startTarget(name, node string, addrs ...netip.AddrPort) (func(context.Context) error, error) {
	r, wr, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	argv := []string{w.record.Executable, "lab", "serve-target", "--ready-fd", strconv.Itoa(readyFD), name}
	for _, a := range addrs {
		argv = append(argv, a.String())
	}
	c, err := w.spawn(name, node, []*os.File{wr}, argv...)
	wr.Close()
	if err != nil {
		r.Close()
		return nil, err
	}
	return func(ctx context.Context) error {
		defer r.Close()
		// A pipe ends a read when it is closed, by us or by the child.
		stop := context.AfterFunc(ctx, func() { r.SetReadDeadline(time.Now()) })
		defer stop()
		line, err := bufio.NewReader(r).ReadString('\n')
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%s does not listen (its log is %s): %w", name, c.log, ctx.Err())
		case err != nil:
			<-c.exited // it closed the pipe without a word
			return c.failure()
		case strings.TrimSpace(line) != "ready":
			return fmt.Errorf("%s said %q instead of ready; is %s a waymark?", name, line, w.record.Executable)
		}
		return nil
	}, nil
}

// ServeTarget serves TCP and UDP on addrs until ctx is done, answering as name.
// When it listens everywhere it writes "ready\n" to ready and closes it; ready
// may be nil.
func ServeTarget(ctx context.Context, name string, addrs []netip.AddrPort, ready io.WriteCloser) error {
	if strings.ContainsAny(name, " \t\r\n") || name == "" {
		return fmt.Errorf("target name %q: want one word", name)
	}
	failed := make(chan error, 2*len(addrs))
	for _, a := range addrs {
		tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		if err != nil {
			return err
		}
		defer tcp.Close()
		udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		if err != nil {
			return err
		}
		defer udp.Close()
		go func() { failed <- serveTCP(tcp, name) }()
		go func() { failed <- serveUDP(udp, name) }()
	}
	if ready != nil {
		if _, err := io.WriteString(ready, "ready\n"); err != nil {
			return err
		}
		ready.Close()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

func serveTCP(l *net.TCPListener, name string) error {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		go answer(c, name)
	}
}

// answer answers every read of a connection until the client has said all.
func answer(c *net.TCPConn, name string) {
	defer c.Close()
	buf := make([]byte, maxDatagram)
	for {
		c.SetDeadline(time.Now().Add(idleTimeout))
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := c.Write(reply(name, c.RemoteAddr().(*net.TCPAddr).AddrPort(), n)); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func serveUDP(c *net.UDPConn, name string) error {
	buf := make([]byte, maxDatagram)
	for {
		n, peer, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		// An answer that cannot be sent is the client's timeout.
		_, _ = c.WriteToUDPAddrPort(reply(name, peer, n), peer)
	}
}

// Reply is one line of a target.
type Reply struct {
	Target string
	Peer   netip.AddrPort // the client, as the target saw it
	Bytes  int            // size of the request
}

func reply(name string, peer netip.AddrPort, n int) []byte {
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	return fmt.Appendf(nil, "%s %s %d\n", name, peer, n)
}

// ParseReply reads one line of a target, with or without its line feed.
func ParseReply(line string) (Reply, error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return Reply{}, fmt.Errorf("answer %q: want NAME PEER BYTES", line)
	}
	peer, err := netip.ParseAddrPort(fields[1])
	if err != nil {
		return Reply{}, fmt.Errorf("answer %q: %w", line, err)
	}
	n, err := strconv.Atoi(fields[2])
	if err != nil || n < 0 {
		return Reply{}, fmt.Errorf("answer %q: %q is not a size", line, fields[2])
	}
	return Reply{Target: fields[0], Peer: peer, Bytes: n}, nil
}
