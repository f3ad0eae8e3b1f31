// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// queue is one bound NFQUEUE. go-nfqueue opens, configures and unbinds it. Its
// own receive loop costs some 64 allocations and four system calls a packet,
// so as soon as it runs it is interrupted by a read deadline, and its error
// callback, on its goroutine, serves the socket with batchLoop instead. Packets
// that come before that are served one by one.
type queue struct {
	e      *Engine
	number uint16
	nf     *nfqueue.Nfqueue
	fd     int
	stop   *waker
	served chan error // batchLoop's result
	packet Packet     // scratch of the one by one path
}

// open binds queue n of the namespace and starts serving it.
func (e *Engine) open(n uint16) (*queue, error) {
	nf, err := nfqueue.Open(&nfqueue.Config{
		NetNS: e.config.NetNS, NfQueue: n, MaxQueueLen: e.config.Length, MaxPacketLen: uint32(e.config.CopyRange),
		Copymode: nfqueue.NfQnlCopyPacket,
		// Without it the kernel would segment every large packet first.
		Flags:    nfqueue.NfQaCfgFlagGSO,
		AfFamily: unix.AF_INET,
	})
	if err != nil {
		return nil, fmt.Errorf("queue %d: netlink socket: %w", n, err)
	}
	q := &queue{e: e, number: n, nf: nf, served: make(chan error, 1)}
	if err := q.start(); err != nil {
		if q.stop != nil {
			q.stop.wake() // should it be served already
		}
		nf.Close()
		if q.stop != nil {
			q.stop.close()
		}
		return nil, fmt.Errorf("queue %d: %w", n, err)
	}
	return q, nil
}

func (q *queue) start() error {
	// A full receive buffer loses packets, which the kernel counts; an error
	// about it would help nobody.
	if err := q.nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("NETLINK_NO_ENOBUFS: %w", err)
	}
	if err := q.nf.Con.SetReadBuffer(max(minReceiveBuffer, int(q.e.config.Length)*packetMemory)); err != nil {
		return fmt.Errorf("receive buffer: %w", err)
	}
	conn, err := q.nf.Con.SyscallConn()
	if err != nil {
		return err
	}
	if err := conn.Control(func(fd uintptr) { q.fd = int(fd) }); err != nil {
		return err
	}
	if q.stop, err = newWaker(); err != nil {
		return err
	}
	err = q.nf.RegisterWithErrorFunc(context.Background(), q.serveOne, q.takeOver)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("not permitted: root or CAP_NET_ADMIN is needed, and no other program may serve it (see /proc/net/netfilter/nfnetlink_queue): %w", err)
	}
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return q.nf.Con.SetReadDeadline(time.Unix(1, 0))
}

// serveOne is go-nfqueue's packet callback.
func (q *queue) serveOne(a nfqueue.Attribute) int {
	if a.PacketID == nil {
		return 0
	}
	q.e.stats.packets.Add(1)
	verdict, mark := nfqueue.NfDrop, 0
	if a.Payload != nil {
		if d := q.e.b.Decide(*a.Payload, &q.packet); d.Accept {
			verdict, mark = nfqueue.NfAccept, d.Mark
		}
	}
	if err := q.nf.SetVerdictWithOption(*a.PacketID, verdict, nfqueue.WithMark(uint32(mark))); err != nil {
		q.e.stats.verdictErrors.Add(1)
	}
	return 0
}

// takeOver is go-nfqueue's error callback: the first error is our deadline.
func (q *queue) takeOver(error) int {
	q.nf.Con.SetReadDeadline(time.Time{})
	q.served <- newBatchLoop(q.e, q.number, q.fd, q.stop).run()
	return 1 // go-nfqueue unbinds the queue and ends its goroutine
}

// run waits until ctx ends or the queue fails, and closes the queue.
func (q *queue) run(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		q.stop.wake()
		err = <-q.served
	case err = <-q.served:
		if err == nil {
			err = errQueueEnded
		}
	}
	closeErr := q.nf.Close()
	q.stop.close()
	return errors.Join(err, closeErr)
}
