// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names of what is handed over; a name may go on with which one it is. A
// process that has no use for a name leaves it.
const (
	ControlSocket = "control"
	TraceSocket   = "trace"
	MetricsSocket = "metrics"
	TunDevice     = "tun"

	queueSocket = "queue"
)

// HandedOver is something open that a new process gets, too.
type HandedOver struct {
	Name string
	Open syscall.Conn // a listener, say
}

// OfferTakeover lets a new process take over b and e, and what else is open.
// It is called before ServeControl. taken is told when a process has done so:
// the caller has to end, without touching what it handed over.
func (b *Balancer) OfferTakeover(e *Engine, others []HandedOver, taken func(pid int)) {
	b.offer = func(conn net.Conn) {
		pid, err := b.handOver(conn, e, others)
		if err == nil {
			taken(pid)
			return
		}
		// A new process that ended itself knows why.
		conn.Write(reply(err.Error()))
	}
}

// handOver hands everything over to the process at the other end of conn. On
// an error b and e serve on.
func (b *Balancer) handOver(conn net.Conn, e *Engine, others []HandedOver) (pid int, err error) {
	to, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("only a unix control socket can hand a balancer over")
	}
	if pid, err = trusted(to); err != nil {
		return 0, err
	}
	// From here on flows do not change; targets do, in files that both read.
	b.changes.Lock()
	defer b.changes.Unlock()
	if b.takenOver {
		return 0, errTakenOver
	}
	resume := pause(others)
	defer func() {
		if err != nil {
			resume()
		}
	}()
	if err := b.sendOffer(to, e, others); err != nil {
		return 0, err
	}
	answers := json.NewDecoder(to)
	if err := awaitStep(answers, takeoverReady); err != nil {
		return 0, err
	}
	h, err := e.HandOver()
	if err != nil {
		return 0, err
	}
	state := b.takeoverState()
	state.Engine = e.Stats()
	if err = json.NewEncoder(to).Encode(state); err == nil {
		err = awaitStep(answers, takeoverTaken)
	}
	if err != nil {
		h.Resume()
		return 0, err
	}
	h.Done()
	b.takenOver = true
	// The end of the connection says the same.
	_ = sayStep(to, takeoverYours)
	return pid, nil
}

// trusted is the process at the other end, if it is root's or of this process's
// user: anybody in the network namespace can connect, or listen before us.
func trusted(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if peerErr != nil {
		return 0, peerErr
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("process %d is of user %d; only root and user %d hand a balancer over to each other", peer.Pid, peer.Uid, os.Geteuid())
	}
	return int(peer.Pid), nil
}

// pause keeps listeners from accepting: who connects now waits for the new
// process, or for resume.
func pause(others []HandedOver) (resume func()) {
	deadline := func(t time.Time) {
		for _, o := range others {
			if l, ok := o.Open.(interface{ SetDeadline(time.Time) error }); ok {
				l.SetDeadline(t)
			}
		}
	}
	deadline(time.Unix(1, 0))
	return func() { deadline(time.Time{}) }
}

// sendOffer sends the descriptors and what belongs to them.
func (b *Balancer) sendOffer(to *net.UnixConn, e *Engine, others []HandedOver) error {
	offer := takeoverOffer{Version: takeoverVersion, First: e.config.First, Last: e.config.Last}
	b.mu.Lock()
	offer.Flows = b.specs()
	b.mu.Unlock()
	// The sockets are those of an engine that goes on, for the time being.
	h, err := e.HandOver()
	if err != nil {
		return err
	}
	var fds []int
	defer func() { closeAll(fds) }()
	for _, socket := range h.Sockets {
		fd, dupErr := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
		if dupErr != nil {
			err = fmt.Errorf("duplicate a queue's socket: %w", dupErr)
			break
		}
		fds, offer.Descriptors = append(fds, fd), append(offer.Descriptors, queueSocket)
	}
	h.Resume()
	if err != nil {
		return err
	}
	for _, o := range others {
		fd, err := duplicate(o.Open)
		if err != nil {
			return fmt.Errorf("hand over %s: %w", o.Name, err)
		}
		fds, offer.Descriptors = append(fds, fd), append(offer.Descriptors, o.Name)
	}
	if err := sendDescriptors(to, takeoverOK, fds); err != nil {
		return err
	}
	return json.NewEncoder(to).Encode(offer)
}

func sayStep(to *net.UnixConn, step string) error {
	return json.NewEncoder(to).Encode(takeoverStep{step})
}

func awaitStep(from *json.Decoder, want string) error {
	var got takeoverStep
	if err := from.Decode(&got); err != nil {
		return fmt.Errorf("the other process has given up: %w", err)
	}
	if got.Step != want {
		return fmt.Errorf("the other process says %q, want %q", got.Step, want)
	}
	return nil
}
