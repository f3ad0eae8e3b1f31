// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The client of a world: real connections and datagrams from the client's
// namespace to the service, and who answered them.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Traffic says what to send. The zero value is one TCP connection over IPv4.
type Traffic struct {
	To          string        // name of one of the lab's services; default its main one
	Connections int           // or UDP exchanges; default 1
	UDP         bool          // instead of TCP
	Ping        bool          // echo requests instead; the identifier is the source's port, from 1 on
	IPv6        bool          // instead of IPv4
	Rate        float64       // new connections per second; 0: as fast as they end
	Concurrency int           // open at a time; default 16
	Size        int           // bytes per request; default 32
	Port        uint16        // of the service; default the lab's
	Timeout     time.Duration // for one connection, or for each of its parts; default 2 s
	// ReverseFragments sends datagrams in fragments, the last one first.
	ReverseFragments bool
	// Of two parts, two requests: what is between them, and whether the second is
	// in a connection of its own from the same port.
	Pause time.Duration
	Amid  string // fault that is set when all connections have come so far; all are open at a time
	Again bool
	// Source is where connections come from. Default: the lab's client, and
	// ports the kernel chooses. With a port, connections count up from it.
	Source netip.AddrPort
}

const (
	defaultConcurrency = 16
	defaultSize        = 32
	defaultTimeout     = 2 * time.Second

	// maxUDP is the largest UDP payload over IPv4 (RFC 791, RFC 768).
	maxUDP = 65535 - 20 - 8
)

// Exchange is one connection or one datagram and its answer.
type Exchange struct {
	Local  netip.AddrPort // invalid when no socket could be opened
	Remote netip.AddrPort
	Reply  Reply // of the last line; Bytes is the sum of all lines
	Took   time.Duration
	Err    error
}

// Summary counts exchanges.
type Summary struct {
	Lab      string         `json:"lab"`
	Proto    string         `json:"proto"`
	Dst      string         `json:"dst"`
	Sent     int            `json:"sent"`
	Answered int            `json:"answered"`
	Failed   int            `json:"failed"`
	Targets  map[string]int `json:"targets,omitempty"`
	Errors   map[string]int `json:"errors,omitempty"` // by text
	Duration time.Duration  `json:"duration_ns"`
}

// Send sends t and waits for every answer. each, unless nil, gets every
// exchange, one at a time. Exchanges that fail are counted; the error is about
// the request itself (a bad parameter, ctx ended).
func (w *World) Send(ctx context.Context, t Traffic, each func(Exchange)) (Summary, error) {
	s, err := w.lab.findService(t.To)
	if err != nil {
		return Summary{}, err
	}
	t, dst, err := s.complete(t)
	if err != nil {
		return Summary{}, err
	}
	sum := Summary{Lab: w.lab.name, Proto: "tcp", Dst: dst.String(), Targets: map[string]int{}, Errors: map[string]int{}}
	if t.UDP {
		sum.Proto = "udp"
	}
	if t.Ping {
		sum.Proto, sum.Dst = "icmp", dst.Addr().String()
	}
	between, err := w.interval(ctx, t)
	if err != nil {
		return Summary{}, err
	}
	start := time.Now()
	jobs := make(chan netip.AddrPort)
	results := make(chan Exchange)
	var workers sync.WaitGroup
	for range min(t.Concurrency, t.Connections) {
		workers.Go(func() {
			for src := range jobs {
				results <- w.exchange(ctx, s.client, t, src, dst, between)
			}
		})
	}
	go func() {
		t.schedule(ctx, jobs)
		close(jobs)
		workers.Wait()
		close(results)
	}()
	for x := range results {
		sum.add(x)
		if each != nil {
			each(x)
		}
	}
	sum.Duration = time.Since(start)
	return sum, ctx.Err()
}

// complete fills in defaults and returns the destination.
func (s service) complete(t Traffic) (Traffic, netip.AddrPort, error) {
	if t.Connections == 0 {
		t.Connections = 1
	}
	if t.Concurrency == 0 {
		t.Concurrency = defaultConcurrency
	}
	if t.Amid != "" {
		t.Concurrency = t.Connections
	}
	if t.Size == 0 {
		t.Size = defaultSize
	}
	if t.Timeout == 0 {
		t.Timeout = defaultTimeout
	}
	if t.Port == 0 {
		t.Port = s.port
	}
	src, dst := s.from4, s.virtual4
	if t.IPv6 {
		src, dst = s.from6, s.virtual6
	}
	if !t.Source.Addr().IsValid() {
		t.Source = netip.AddrPortFrom(src, t.Source.Port())
	}
	if t.Ping && t.Source.Port() == 0 {
		t.Source = netip.AddrPortFrom(t.Source.Addr(), 1)
	}
	switch {
	case t.Connections < 0 || t.Concurrency < 0 || t.Size < 0 || t.Rate < 0 || t.Timeout < 0 || t.Pause < 0:
		return t, netip.AddrPort{}, errors.New("connections, concurrency, size, rate, timeout and pause must not be negative")
	case t.Ping && t.parted() || t.UDP && t.Again:
		return t, netip.AddrPort{}, errors.New("only connections are made again, and echo requests have no parts")
	case t.Ping && t.UDP:
		return t, netip.AddrPort{}, errors.New("echo requests are no datagrams of UDP; choose one of the two")
	case !dst.IsValid() && t.IPv6:
		return t, netip.AddrPort{}, fmt.Errorf("service %s has no IPv6 address", s.name)
	case !dst.IsValid():
		return t, netip.AddrPort{}, fmt.Errorf("service %s has no IPv4 address; use IPv6 (-6)", s.name)
	case t.UDP && t.Size > maxUDP:
		return t, netip.AddrPort{}, fmt.Errorf("%d bytes do not fit into a datagram; at most %d do", t.Size, maxUDP)
	case t.Source.Addr().Is4() != dst.Is4():
		return t, netip.AddrPort{}, fmt.Errorf("source %s cannot reach %s; use an address of the same family (-6 for IPv6)", t.Source.Addr(), dst)
	case t.Source.Port() != 0 && int(t.Source.Port())+t.Connections > 65536:
		return t, netip.AddrPort{}, fmt.Errorf("%d connections from port %d on do not fit below 65536", t.Connections, t.Source.Port())
	}
	return t, netip.AddrPortFrom(dst, t.Port), t.checkReversed()
}

// schedule hands out the source of every connection, at the wanted rate.
func (t Traffic) schedule(ctx context.Context, jobs chan<- netip.AddrPort) {
	var pace <-chan time.Time
	if t.Rate > 0 {
		tick := time.NewTicker(max(time.Duration(float64(time.Second)/t.Rate), 1))
		defer tick.Stop()
		pace = tick.C
	}
	for i := range t.Connections {
		src := t.Source
		if src.Port() != 0 {
			src = netip.AddrPortFrom(src.Addr(), src.Port()+uint16(i))
		}
		if pace != nil && i > 0 {
			select {
			case <-pace:
			case <-ctx.Done():
				return
			}
		}
		select {
		case jobs <- src:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Summary) add(x Exchange) {
	s.Sent++
	if x.Err != nil {
		s.Failed++
		s.Errors[cause(x.Err)]++
		return
	}
	s.Answered++
	s.Targets[x.Reply.Target]++
}

// cause names an error without the addresses in it, so that equal ones count
// together.
func cause(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// exchange makes one connection from the node client, or sends one datagram, and
// reads the answer; of two parts, twice.
func (w *World) exchange(ctx context.Context, client string, t Traffic, src, dst netip.AddrPort, between *interval) Exchange {
	all := ctx
	arrived := sync.OnceFunc(func() { between.arrive(all) })
	defer arrived()
	ctx, cancel := context.WithTimeout(all, t.Timeout)
	defer cancel()
	x := Exchange{Remote: dst}
	start := time.Now()
	if t.Ping {
		x.Local = src
		x.Took, x.Err = w.ping(ctx, client, src.Addr(), dst.Addr(), src.Port())
		x.Reply = Reply{Target: dst.Addr().String(), Peer: src}
		return x
	}
	network := "tcp"
	if t.UDP {
		network = "udp"
	}
	c, err := w.dial(ctx, client, network, src, dst)
	if err != nil {
		x.Err = err
		return x
	}
	defer func() { c.Close() }()
	x.Local = addrPort(c.LocalAddr())
	request := bytes.Repeat([]byte("waymark "), t.Size/8+1)[:t.Size]
	var first Reply
	if t.parted() {
		if first, x.Err = w.ask(ctx, client, t, c, request, t.Again); x.Err != nil {
			return x
		}
		if t.Again {
			c.Close()
		}
		arrived()
		if x.Err = between.wait(all); x.Err != nil {
			return x
		}
		again, cancelAgain := context.WithTimeout(all, t.Timeout)
		defer cancelAgain()
		ctx = again
		if t.Again {
			next, err := w.dial(ctx, client, network, x.Local, dst)
			if err != nil {
				x.Err = err
				return x
			}
			c = next
		}
	}
	x.Reply, x.Err = w.ask(ctx, client, t, c, request, true)
	x.Took = time.Since(start)
	if x.Err == nil && x.Reply.Bytes != t.Size {
		x.Err = fmt.Errorf("the target got %d of %d bytes", x.Reply.Bytes, t.Size)
	}
	if x.Err == nil && t.parted() && !t.Again && !t.UDP {
		x.Err = sameTarget(first, x.Reply)
	}
	return x
}

// ask sends a request and reads the answer. end: it is all that is sent in a
// connection.
func (w *World) ask(ctx context.Context, client string, t Traffic, c net.Conn, request []byte, end bool) (Reply, error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	switch {
	case t.ReverseFragments:
		return w.askReversed(client, c, request)
	case t.UDP:
		return askUDP(c, request)
	case !end:
		return askPart(c, request)
	}
	return askTCP(c.(*net.TCPConn), request)
}

func askUDP(c net.Conn, request []byte) (Reply, error) {
	if _, err := c.Write(request); err != nil {
		return Reply{}, err
	}
	return readUDP(c)
}

func readUDP(c net.Conn) (Reply, error) {
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		return Reply{}, err
	}
	return ParseReply(string(buf[:n]))
}

// askTCP sends the request and reads to the end. A large request arrives in
// pieces, each of which is answered; all answers must be from one target.
func askTCP(c *net.TCPConn, request []byte) (Reply, error) {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(request)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	var total Reply
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		r, err := ParseReply(lines.Text())
		if err != nil {
			return total, err
		}
		if total.Target != "" && r.Target != total.Target {
			return total, fmt.Errorf("one connection was answered by %s and by %s", total.Target, r.Target)
		}
		r.Bytes += total.Bytes
		total = r
	}
	if err := lines.Err(); err != nil || total.Target == "" {
		return total, endedBy(err)
	}
	return total, <-sent
}

// endedBy is why a connection that ended with err gave no answer.
func endedBy(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Dial connects from the client of the world to addr, an address and port in
// text. network is "tcp" or "udp".
func (w *World) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	dst, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	src := w.lab.service.from4
	if dst.Addr().Is6() {
		src = w.lab.service.from6
	}
	return w.DialFrom(ctx, network, netip.AddrPortFrom(src, 0), dst)
}

// DialFrom is Dial with a source; port 0 lets the kernel choose.
func (w *World) DialFrom(ctx context.Context, network string, src, dst netip.AddrPort) (net.Conn, error) {
	return w.dial(ctx, w.lab.service.client, network, src, dst)
}

func (w *World) dial(ctx context.Context, client, network string, src, dst netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	switch network {
	case "tcp":
		d.LocalAddr = net.TCPAddrFromAddrPort(src)
	case "udp":
		d.LocalAddr = net.UDPAddrFromAddrPort(src)
	default:
		return nil, fmt.Errorf("network %q: want tcp or udp", network)
	}
	if network == "tcp" {
		d.Control = bindOften(src.Port() == 0)
	}
	var conn net.Conn
	// A literal address is dialled on the calling goroutine: the socket is
	// opened on this thread, and so in the client's namespace.
	err := w.Inside(client, func() (err error) {
		conn, err = d.DialContext(ctx, network, dst.String())
		return err
	})
	return conn, err
}

// bindOften lets a port be used again for a connection to the same destination when
// the last one ended, and for one to another destination at any time: if the kernel
// is to choose the port, connect(2) does that and not bind(2), which could not
// (ip(7)).
func bindOften(anyPort bool) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctl := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if err == nil && anyPort {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			}
		}); ctl != nil {
			return ctl
		}
		return err
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
