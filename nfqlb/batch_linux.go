// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchLoop serves a bound queue's socket: up to batchSize packets by one
// recvmmsg, their verdicts by one sendto, nothing allocated.
//
// The calls are raw, without telling the Go scheduler: telling it costs more
// than twice nfqlb's CPU time at low rates, since every wake-up goes through
// the runtime's monitor thread. The price is that the thread keeps its
// processor of the scheduler while packets come, and that the garbage
// collector has to interrupt the wait: recvmmsg returns EINTR on the runtime's
// preemption signal, and the loop yields. A queue without packets for
// idleAfter waits in an ordinary call and holds nothing.
//
// The goroutine is not locked to its thread: each yield would then be two
// changes of threads, and on a machine with more work than processors garbage
// collections took seconds, during which no packet moved.
type batchLoop struct {
	e        *Engine
	queue    queue
	fd       int
	stop     *waker
	packet   Packet
	standing standing
	singles  int           // packets to ask for one by one
	batch    atomic.Uint64 // odd from before the first decision of a batch to after its verdicts

	polled   [2]unix.PollFd // fd and stop
	msgs     [batchSize]mmsghdr
	iovs     [batchSize]unix.Iovec
	bufs     [batchSize][]byte
	verdicts [batchSize * verdictSize]byte
}

const (
	// batchSize is small enough for a batch's messages, and the kernel's memory
	// of them, to stay in the nearest caches until their verdicts are sent.
	batchSize = 16

	// idleAfter is ten gaps of 10,000 packets/s; below, calls are cheap enough.
	// The kernel rounds it up to its ticks, 10 ms at most.
	idleAfter = time.Millisecond

	// singleCalls is how many packets are asked for one by one once one came
	// alone. A burst that begins meanwhile is served in batches after so many.
	singleCalls = 16

	// maxSendTries is how often verdicts are sent that the kernel has no memory
	// for, once the engine shall end.
	maxSendTries = 10000

	// messageRoom is for what is around a packet: 16 + 4 bytes of headers and
	// about 150 of attributes. A longer message is cut, which is seen and
	// counted.
	messageRoom = 448
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// Netlink messages of linux/netfilter/nfnetlink_queue.h, in host order unless
// said; the numbers of the queue protocol itself are big endian.
const (
	nfqnlMsgPacket  = unix.NFNL_SUBSYS_QUEUE << 8
	nfqnlMsgVerdict = unix.NFNL_SUBSYS_QUEUE<<8 | 1
	nfqaPacketHdr   = 1  // u32 id, u16 protocol, u8 hook
	nfqaVerdictHdr  = 2  // u32 verdict, u32 id
	nfqaMark        = 3  // u32
	nfqaPayload     = 10 // from the network header on

	nlHeader   = unix.SizeofNlMsghdr + 4 // and struct nfgenmsg
	attrHeader = unix.SizeofNlAttr
	attrType   = 0x3fff // NLA_TYPE_MASK

	verdictSize = nlHeader + attrHeader + 8 + attrHeader + 4

	nfDrop, nfAccept = 0, 1 // linux/netfilter.h
)

func newBatchLoop(e *Engine, number uint16, fd int, stop *waker) *batchLoop {
	l := &batchLoop{e: e, queue: queue{number, fd}, fd: fd, stop: stop}
	if stop != nil { // else it only drains
		l.polled = [2]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(stop.fd), Events: unix.POLLIN}}
	}
	// An odd number of cache lines: the starts of the buffers, which are all
	// that is read of most, then lie in different sets of the cache.
	messageSize := (e.config.CopyRange+messageRoom+63)&^63 | 64
	bufs := make([]byte, batchSize*messageSize)
	for i := range l.msgs {
		l.bufs[i] = bufs[i*messageSize:][:messageSize]
		l.iovs[i].Base = &l.bufs[i][0]
		l.iovs[i].SetLen(messageSize)
		l.msgs[i].hdr.Iov = &l.iovs[i]
		l.msgs[i].hdr.SetIovlen(1)

		// All but id, verdict and mark is the same each time.
		v := l.verdicts[i*verdictSize:][:verdictSize]
		binary.NativeEndian.PutUint32(v[0:], verdictSize)
		binary.NativeEndian.PutUint16(v[4:], nfqnlMsgVerdict)
		binary.NativeEndian.PutUint16(v[6:], unix.NLM_F_REQUEST)
		binary.BigEndian.PutUint16(v[18:], number)
		binary.NativeEndian.PutUint16(v[20:], attrHeader+8)
		binary.NativeEndian.PutUint16(v[22:], nfqaVerdictHdr)
		binary.NativeEndian.PutUint16(v[32:], attrHeader+4)
		binary.NativeEndian.PutUint16(v[34:], nfqaMark)
	}
	return l
}

// run serves the queue until stop is woken.
func (l *batchLoop) run() error {
	if err := l.block(); err != nil {
		return err
	}
	for !l.stop.woken.Load() {
		empty, err := l.receive(unix.MSG_WAITFORONE)
		if err != nil {
			return err
		}
		if empty {
			l.wait()
		}
	}
	return nil
}

// drain serves what the socket has.
func (l *batchLoop) drain() error {
	for {
		if empty, err := l.receive(unix.MSG_DONTWAIT); empty || err != nil {
			return err
		}
	}
}

// receive serves one batch, if one comes. flags are recvmmsg's.
func (l *batchLoop) receive(flags uintptr) (empty bool, err error) {
	n, errno := l.messages(flags)
	switch {
	case errno == 0 && n > 0:
		if l.standing.after(n) {
			if err := l.queue.limit(l.standing.length(l.e.config.Length)); err != nil {
				return false, err
			}
		}
		return false, l.serve(n)
	case errno == unix.EAGAIN:
		return true, nil
	case errno == unix.EINTR:
		runtime.Gosched()
		return false, nil
	case errno == unix.ENOBUFS: // packets were lost; the kernel counts how many
		l.e.stats.overruns.Add(1)
		return false, nil
	}
	return false, fmt.Errorf("recvmmsg: %w", errno)
}

// messages receives what there is, a batch at most. While packets come one at a
// time it asks for one: recvmmsg costs more, and looks for a second.
func (l *batchLoop) messages(flags uintptr) (n int, errno unix.Errno) {
	if l.singles > 0 {
		l.singles--
		size, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(l.fd), uintptr(unsafe.Pointer(&l.bufs[0][0])), uintptr(len(l.bufs[0])), flags&unix.MSG_DONTWAIT, 0, 0)
		l.msgs[0].n = uint32(size)
		return 1, errno
	}
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.msgs[0])), batchSize, flags, 0, 0)
	if got == 1 && errno == 0 {
		l.singles = singleCalls
	}
	return int(got), errno
}

// block makes the receiving call wait for packets, idleAfter at most. That there
// is a limit is what makes a signal end the wait with EINTR; without one the
// kernel would take the call up again.
func (l *batchLoop) block() error {
	limit := unix.NsecToTimeval(int64(idleAfter))
	if err := unix.SetsockoptTimeval(l.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("SO_RCVTIMEO: %w", err)
	}
	if err := unix.SetNonblock(l.fd, false); err != nil {
		return fmt.Errorf("blocking socket: %w", err)
	}
	return nil
}

// wait returns when packets are there, or stop was woken.
func (l *batchLoop) wait() {
	unix.Poll(l.polled[:], -1) // EINTR and success are the same to the caller
}

// serve decides the n received messages and sends the verdicts.
func (l *batchLoop) serve(n int) error {
	l.batch.Add(1)
	defer l.batch.Add(1)
	verdicts, packets := 0, 0
	for i := range n {
		m := &l.msgs[i]
		msg := l.bufs[i][:min(int(m.n), len(l.bufs[i]))]
		id, payload, ok := packetOfMessage(msg)
		if !ok {
			if request, errno, isRefusal := refusal(msg); isRefusal {
				if err := l.refused(request, errno); err != nil {
					return err
				}
				continue
			}
			l.e.stats.malformed.Add(1)
			if id == 0 {
				continue
			}
		}
		packets++
		verdict, mark := uint32(nfDrop), uint32(0)
		if d := l.e.b.Decide(payload, &l.packet); d.Accept {
			verdict, mark = nfAccept, uint32(d.Mark)
		}
		v := l.verdicts[verdicts*verdictSize:][:verdictSize]
		binary.BigEndian.PutUint32(v[24:], verdict)
		binary.BigEndian.PutUint32(v[28:], id)
		binary.BigEndian.PutUint32(v[36:], mark)
		verdicts++
	}
	l.e.stats.packets.Add(uint64(packets))
	l.e.stats.batches.Add(1)
	return l.send(verdicts)
}

// refused counts what the kernel said no to. It is an error if the queue is
// not this engine's any more.
func (l *batchLoop) refused(request []byte, errno unix.Errno) error {
	switch {
	case errno == unix.EPERM || errno == unix.ENODEV:
		return fmt.Errorf("%w: %w", errQueueTaken, errno)
	case binary.NativeEndian.Uint16(request[4:]) == nfqnlMsgConfig:
		return fmt.Errorf("the kernel refuses the queue's settings: %w", errno)
	case errno == unix.ENOENT: // the packet is not in the queue any more
		if len(request) >= verdictSize && binary.BigEndian.Uint32(request[24:]) == nfAccept {
			l.e.stats.flushed.Add(1)
		}
	default:
		l.e.stats.verdictErrors.Add(1)
	}
	return nil
}

var errQueueTaken = errors.New("the queue was unbound or taken by another process; see /proc/net/netfilter/nfnetlink_queue, then start the balancer again")

func (l *batchLoop) send(verdicts int) error {
	if verdicts == 0 {
		return nil
	}
	for tries := 1; ; tries++ {
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(l.fd), uintptr(unsafe.Pointer(&l.verdicts[0])), uintptr(verdicts*verdictSize),
			0, 0, 0) // without an address it goes to the kernel
		switch errno {
		case 0:
			return nil
		case unix.EINTR, unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			// The packets wait for these verdicts: the kernel must take them.
			l.e.stats.verdictErrors.Add(1)
			runtime.Gosched()
			if tries > maxSendTries && (l.stop == nil || l.stop.woken.Load()) {
				return fmt.Errorf("sendto: %w", errno)
			}
		default:
			return fmt.Errorf("sendto: %w", errno)
		}
	}
}

// packetOfMessage finds id and payload in a queue message. If it is not ok, id
// may still be set: the packet then waits for a verdict although its payload
// is missing or cut.
func packetOfMessage(m []byte) (id uint32, payload []byte, ok bool) {
	if len(m) < nlHeader || binary.NativeEndian.Uint16(m[4:]) != nfqnlMsgPacket {
		return 0, nil, false
	}
	for attrs := m[nlHeader:]; len(attrs) >= attrHeader; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < attrHeader || size > len(attrs) {
			return id, nil, false
		}
		value := attrs[attrHeader:size]
		switch binary.NativeEndian.Uint16(attrs[2:]) & attrType {
		case nfqaPacketHdr:
			if len(value) >= 4 {
				id = binary.BigEndian.Uint32(value)
			}
		case nfqaPayload:
			return id, value, id != 0
		}
		attrs = attrs[min((size+3)&^3, len(attrs)):]
	}
	return id, nil, false
}

// waker ends batchLoops from another goroutine.
type waker struct {
	woken atomic.Bool
	fd    int // eventfd
}

func newWaker() (*waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &waker{fd: fd}, nil
}

func (w *waker) wake() {
	w.woken.Store(true)
	unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot block or fail here
}

func (w *waker) close() { unix.Close(w.fd) }
