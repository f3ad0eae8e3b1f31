// SPDX-License-Identifier: Apache-2.0

// Classic pcap files (draft-ietf-opsawg-pcap), with nanoseconds.

package decoder

import (
	"encoding/binary"
	"io"

	"waymark/decoder/pcapng"
)

const (
	pcapNanoMagic = 0xa1b23c4d
	// pcapSnapLen is the limit programs accept in a classic pcap file.
	pcapSnapLen = 262144
	pcapBuffer  = 64 << 10
)

// pcapWriter writes one classic pcap file, little endian. Like pcapng.Writer
// it writes whole packets only.
type pcapWriter struct {
	out io.Writer
	buf []byte
}

func newPcapWriter(out io.Writer) *pcapWriter { return &pcapWriter{out: out} }

// packet writes p; the first one decides the link type of the file.
func (w *pcapWriter) packet(iface *pcapng.Interface, p *pcapng.Packet) error {
	le := binary.LittleEndian
	if w.buf == nil {
		w.buf = make([]byte, 0, pcapBuffer+4096)
		w.buf = le.AppendUint32(w.buf, pcapNanoMagic)
		w.buf = le.AppendUint16(w.buf, 2) // version 2.4
		w.buf = le.AppendUint16(w.buf, 4)
		w.buf = le.AppendUint64(w.buf, 0) // time zone, accuracy: never used
		w.buf = le.AppendUint32(w.buf, pcapSnapLen)
		w.buf = le.AppendUint32(w.buf, uint32(iface.LinkType))
	}
	t := iface.Time(p.Time)
	w.buf = le.AppendUint32(w.buf, uint32(t.Unix()))
	w.buf = le.AppendUint32(w.buf, uint32(t.Nanosecond()))
	w.buf = le.AppendUint32(w.buf, uint32(len(p.Data)))
	w.buf = le.AppendUint32(w.buf, p.OrigLen)
	w.buf = append(w.buf, p.Data...)
	if len(w.buf) < pcapBuffer {
		return nil
	}
	return w.flush()
}

func (w *pcapWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.out.Write(w.buf)
	if err == nil && n < len(w.buf) {
		err = io.ErrShortWrite
	}
	w.buf = w.buf[:0]
	return err
}
