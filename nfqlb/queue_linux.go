// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// queue is one bound NFQUEUE: a netlink socket. The kernel knows the queue's
// owner by that socket, not by the process, and keeps the binding until the
// last descriptor of the socket is closed. So a queue can change hands without
// anybody noticing (Engine.HandOver).
type queue struct {
	number uint16
	fd     int
}

// bind takes queue n of the namespace. go-nfqueue opens, binds and configures
// it; batchLoop serves it, since go-nfqueue's own receive loop costs some 64
// allocations and four system calls a packet.
//
// go-nfqueue reads the answer to each of its requests from the socket that
// packets come on, and takes a packet for a wrong answer. So it binds a queue
// that copies nothing, to which the kernel gives no packets, and the last
// request, which starts them, is ours.
func (e *Engine) bind(n uint16) (*queue, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{
		NetNS: e.config.NetNS, NfQueue: n, MaxQueueLen: e.config.Length, MaxPacketLen: uint32(e.config.CopyRange),
		Copymode: nfqueue.NfQnlCopyNone, Flags: e.queueFlags(), AfFamily: unix.AF_INET,
	})
	if err != nil {
		return nil, fmt.Errorf("queue %d: netlink socket: %w", n, err)
	}
	q, err := e.bindWith(nf, n)
	// The queue has a descriptor of its own now.
	if closeErr := nf.Close(); err == nil && closeErr != nil {
		q.close()
		return nil, fmt.Errorf("queue %d: %w", n, closeErr)
	}
	if err != nil {
		return nil, fmt.Errorf("queue %d: %w", n, err)
	}
	return q, nil
}

func (e *Engine) bindWith(nf *nfqueue.Nfqueue, n uint16) (*queue, error) {
	// A full receive buffer loses packets, which the kernel counts; an error
	// about it would help nobody.
	if err := nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return nil, fmt.Errorf("NETLINK_NO_ENOBUFS: %w", err)
	}
	if err := nf.Con.SetReadBuffer(e.receiveBuffer()); err != nil {
		return nil, fmt.Errorf("receive buffer: %w", err)
	}
	stop := func(error) int { return 1 }
	err := nf.RegisterWithErrorFunc(context.Background(), func(nfqueue.Attribute) int { return 0 }, stop)
	if errors.Is(err, unix.EPERM) {
		return nil, e.refused(n, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	fd, err := duplicate(nf.Con)
	if err != nil {
		return nil, err
	}
	q := &queue{number: n, fd: fd}
	if err := q.copy(e.config.CopyRange); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

func (e *Engine) queueFlags() uint32 {
	flags := uint32(nfqueue.NfQaCfgFlagGSO) // else the kernel would segment every large packet first
	if e.config.FailOpen {
		flags |= nfqueue.NfQaCfgFlagFailOpen
	}
	return flags
}

// receiveBuffer is how large a queue's socket buffer shall be, in bytes.
func (e *Engine) receiveBuffer() int { return max(minReceiveBuffer, int(e.config.Length)*packetMemory) }

// refused explains EPERM, which says too little.
func (e *Engine) refused(n uint16, err error) error {
	owner := ""
	if e.config.NetNS == 0 { // of another namespace only its threads could read it
		owner = queueOwner(n)
	}
	if owner != "" {
		return fmt.Errorf("%s serves it; stop that, or take a balancer over with --takeover: %w", owner, err)
	}
	return fmt.Errorf("not permitted: root or CAP_NET_ADMIN is needed, and no other program may serve it (see /proc/net/netfilter/nfnetlink_queue): %w", err)
}

// adopt is a queue whose socket came from another process. The queue has to be
// closed after an error, too.
func (e *Engine) adopt(n uint16, fd int) (*queue, error) {
	q := &queue{number: n, fd: fd}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err == nil && protocol != unix.NETLINK_NETFILTER {
		err = fmt.Errorf("protocol %d", protocol)
	}
	if err != nil {
		return q, fmt.Errorf("queue %d: what was handed over is no queue's socket: %w", n, err)
	}
	const mask = nfqueue.NfQaCfgFlagGSO | nfqueue.NfQaCfgFlagFailOpen
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, e.receiveBuffer()),
		q.flags(e.queueFlags(), mask), q.limit(e.config.Length), q.copy(e.config.CopyRange))
	if err != nil {
		return q, fmt.Errorf("queue %d: %w", n, err)
	}
	return q, nil
}

// close gives the queue back, unless another process has the socket, too.
func (q *queue) close() { unix.Close(q.fd) }
