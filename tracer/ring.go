// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Bits of the length word before each sample: include/uapi/linux/bpf.h.
const (
	ringbufBusy    = 1 << 31 // reserved, not committed yet
	ringbufDiscard = 1 << 30 // committed, to be skipped
	ringbufHeader  = 8       // struct bpf_ringbuf_hdr: u32 len, u32 pg_off
)

// publishEvery bytes the ring's consumer position is written back, so that a
// long drain gives the kernel room early without bouncing the cache line on
// every record.
const publishEvery = 64 << 10

// ring reads a BPF ring buffer by its mapping (kernel/bpf/ringbuf.c): no
// system call per record, none even to look. The programs never wake anyone
// (BPF_RB_NO_WAKEUP); whoever reads looks often enough.
//
// Not safe for concurrent use.
type ring struct {
	consumer []byte // page with the consumer position, ours to write
	data     []byte // page with the producer position, then the data, mapped twice in a row
	size     uint64
}

func openRing(m *ebpf.Map) (*ring, error) {
	page := os.Getpagesize()
	r := &ring{size: uint64(m.MaxEntries())}
	var err error
	r.consumer, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the ring buffer's consumer page: %w", err)
	}
	r.data, err = unix.Mmap(m.FD(), int64(page), page+2*int(r.size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		unix.Munmap(r.consumer)
		return nil, fmt.Errorf("map the ring buffer: %w", err)
	}
	return r, nil
}

// drain calls fn with each committed record, at most limit of them (0: no
// limit), and returns how many it read. The slice is valid during the call. An
// error of fn stops the drain after that record.
func (r *ring) drain(limit int, fn func(raw []byte) error) (int, error) {
	var (
		consumerPos = (*uint64)(unsafe.Pointer(&r.consumer[0]))
		producerPos = (*uint64)(unsafe.Pointer(&r.data[0]))
		data        = r.data[os.Getpagesize():]
		mask        = r.size - 1
		pos         = atomic.LoadUint64(consumerPos)
		published   = pos
		n           int
		err         error
	)
	for pos < atomic.LoadUint64(producerPos) && err == nil && (limit == 0 || n < limit) {
		at := pos & mask
		word := atomic.LoadUint32((*uint32)(unsafe.Pointer(&data[at])))
		if word&ringbufBusy != 0 {
			break // its writer has not finished; those behind it wait
		}
		length := uint64(word &^ ringbufDiscard)
		if word&ringbufDiscard == 0 {
			// The double mapping makes a record that wraps contiguous.
			err = fn(data[at+ringbufHeader : at+ringbufHeader+length : at+ringbufHeader+length])
			n++
		}
		pos += (length + ringbufHeader + 7) &^ 7
		if pos-published >= publishEvery {
			atomic.StoreUint64(consumerPos, pos)
			published = pos
		}
	}
	atomic.StoreUint64(consumerPos, pos)
	return n, err
}

// empty tells whether everything reserved so far was read. A drain also stops
// at a record that its writer has not finished, with others behind it.
func (r *ring) empty() bool {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.consumer[0]))) ==
		atomic.LoadUint64((*uint64)(unsafe.Pointer(&r.data[0])))
}

func (r *ring) close() {
	unix.Munmap(r.consumer)
	unix.Munmap(r.data)
}
