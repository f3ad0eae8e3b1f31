// SPDX-License-Identifier: Apache-2.0

// Writer: blocks into a file, never half a block per write.

package pcapng

import (
	"fmt"
	"io"
)

// DefaultBuffer is how many bytes a Writer gathers before it writes.
const DefaultBuffer = 64 << 10

// Writer gathers blocks and hands them to an io.Writer, always whole blocks in
// one Write: whoever kills the process leaves a file that ends at a block.
// The first failed Write sticks, because the file then ends inside a block
// and nothing after it could be read. Not for concurrent use.
type Writer struct {
	out        io.Writer
	buf        []byte
	limit      int
	interfaces int
	written    int64
	err        error
}

// NewWriter returns a Writer to out that gathers up to buffer bytes
// (DefaultBuffer if 0). Nothing is written yet: start with Section.
func NewWriter(out io.Writer, buffer int) *Writer {
	if buffer <= 0 {
		buffer = DefaultBuffer
	}
	return &Writer{out: out, limit: buffer, buf: make([]byte, 0, buffer+4096)}
}

// Section starts a section. Interfaces count from 0 again.
func (w *Writer) Section(s *Section) error {
	buf, err := AppendSection(w.buf, s)
	if err == nil {
		w.interfaces = 0
	}
	return w.add(buf, err)
}

// Interface describes one more interface and returns its number.
func (w *Writer) Interface(i *Interface) (int, error) {
	buf, err := AppendInterface(w.buf, i)
	if err := w.add(buf, err); err != nil {
		return 0, err
	}
	w.interfaces++
	return w.interfaces - 1, nil
}

// Packet writes one packet of an interface that was described before.
func (w *Writer) Packet(p *Packet) error {
	if p.Interface < 0 || p.Interface >= w.interfaces {
		return fmt.Errorf("packet of interface %d, but %d are described", p.Interface, w.interfaces)
	}
	if w.err != nil || !w.usual(p) {
		buf, err := AppendPacket(w.buf, p)
		return w.add(buf, err)
	}
	if len(w.buf) < w.limit {
		return nil
	}
	return w.Flush()
}

// Custom writes a custom block.
func (w *Writer) Custom(c *Custom) error {
	buf, err := AppendCustom(w.buf, c)
	return w.add(buf, err)
}

// Statistics writes the statistics of an interface that was described before.
func (w *Writer) Statistics(s *Statistics) error {
	if s.Interface < 0 || s.Interface >= w.interfaces {
		return fmt.Errorf("statistics of interface %d, but %d are described", s.Interface, w.interfaces)
	}
	buf, err := AppendStatistics(w.buf, s)
	return w.add(buf, err)
}

// Flush writes what was gathered. Call it when nothing arrives for a while,
// and at the end.
func (w *Writer) Flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	n, err := w.out.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	w.written += int64(n)
	w.buf = w.buf[:0]
	w.err = err
	return err
}

// Size is the length of the file so far in bytes, gathered blocks included.
func (w *Writer) Size() int64 { return w.written + int64(len(w.buf)) }

// add takes the buffer with one more block.
func (w *Writer) add(buf []byte, err error) error {
	switch {
	case w.err != nil:
		return w.err
	case err != nil:
		return err
	}
	w.buf = buf
	if len(w.buf) < w.limit {
		return nil
	}
	return w.Flush()
}

// WholeBlocks is how many bytes of b, which a Writer wrote, are whole blocks from
// its start on: what to keep of a Write that came to an end half way.
func WholeBlocks(b []byte) int {
	n := 0
	for len(b)-n >= headSize {
		length := int(le.Uint32(b[n+4:]))
		if length < headSize || length > len(b)-n {
			break
		}
		n += length
	}
	return n
}
