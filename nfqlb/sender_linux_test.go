// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sender puts the same packets on the client's wire over and over, many to a
// system call.
type sender struct {
	w    *world
	msgs []mmsghdr
	iovs []unix.Iovec
	to   unix.RawSockaddrLinklayer
	next int

	sent    atomic.Uint64 // packets that the wire took
	refused atomic.Uint64 // times that it did not
}

func (w *world) sender(packets [][]byte) *sender {
	s := &sender{w: w, msgs: make([]mmsghdr, len(packets)), iovs: make([]unix.Iovec, len(packets))}
	s.to = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(w.ifidx), Halen: 6}
	for i, p := range packets {
		f := w.frameOf(p)
		s.iovs[i].Base = &f[0]
		s.iovs[i].SetLen(len(f))
		h := &s.msgs[i].hdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&s.to)), unix.SizeofSockaddrLinklayer
		h.Iov = &s.iovs[i]
		h.SetIovlen(1)
	}
	return s
}

// send sends n packets more.
func (s *sender) send(n int) {
	for n > 0 {
		burst := min(n, len(s.msgs)-s.next, batchSize)
		took, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.w.client), uintptr(unsafe.Pointer(&s.msgs[s.next])), uintptr(burst), 0, 0, 0)
		switch {
		case errno == 0:
			if int(took) < burst {
				s.refused.Add(1)
			}
			s.sent.Add(uint64(took))
			s.next = (s.next + int(took)) % len(s.msgs)
			n -= int(took)
		case errors.Is(errno, unix.ENOBUFS): // the wire is full
			s.refused.Add(1)
			runtime.Gosched()
		case errors.Is(errno, unix.EINTR):
		default:
			s.w.t.Errorf("sendmmsg: %v", errno)
			return
		}
	}
}

// constantly sends at a steady rate until stop is called, or the test ends.
func (s *sender) constantly(packetsPerSecond int) (stop func()) {
	ended := make(chan struct{})
	var once sync.Once
	var running sync.WaitGroup
	running.Go(func() {
		start, sent := time.Now(), 0
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-ended:
				tick.Stop()
				return
			case <-tick.C:
			}
			// After a stall of this machine the rate goes on: what was missed is
			// not sent in one go.
			due := int(time.Since(start).Seconds() * float64(packetsPerSecond))
			n := min(due-sent, max(packetsPerSecond/100, 1))
			s.send(n)
			sent = due
		}
	})
	stop = func() {
		once.Do(func() { close(ended) })
		running.Wait()
	}
	s.w.t.Cleanup(stop)
	return stop
}

// saturating sends as fast as it goes until stop is called.
func (s *sender) saturating() (stop func()) {
	var ended atomic.Bool
	var running sync.WaitGroup
	running.Go(func() {
		for !ended.Load() {
			s.send(batchSize)
		}
	})
	return func() {
		ended.Store(true)
		running.Wait()
	}
}
