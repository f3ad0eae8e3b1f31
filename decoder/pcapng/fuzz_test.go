// SPDX-License-Identifier: Apache-2.0

package pcapng

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
)

// FuzzReader: whatever the bytes are, reading ends with a judgement, and a
// packet that could be read can be written and read again.
func FuzzReader(f *testing.F) {
	f.Add(write(f, everything()...))
	for _, b := range broken {
		f.Add(b.file())
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		blocks, end, err := read(bytes.NewReader(file))
		var e *Error
		if err != io.EOF && !errors.As(err, &e) {
			t.Fatalf("unexpected error %v", err)
		}
		if end < 0 || end > int64(len(file)) {
			t.Fatalf("offset %d in %d bytes", end, len(file))
		}
		for _, b := range blocks {
			p, ok := b.(*Packet)
			if !ok || uint64(len(p.Data)) > uint64(p.OrigLen) {
				continue
			}
			p.Interface = 0
			var comments [][]byte // an empty one is not written
			for _, c := range p.Comments {
				if len(c) > 0 {
					comments = append(comments, c)
				}
			}
			p.Comments = comments
			again, _, err := read(bytes.NewReader(write(t, &Section{}, &Interface{}, p)))
			if err != io.EOF || len(again) != 3 {
				t.Fatalf("own packet: %v", err)
			}
			normal(p)
			normal(again[2].(*Packet))
			if !reflect.DeepEqual(again[2], p) {
				t.Fatalf("\n got %+v\nwant %+v", again[2], p)
			}
		}
	})
}

// normal makes empty slices nil.
func normal(p *Packet) {
	for i := range p.Verdicts {
		if len(p.Verdicts[i].Raw) == 0 {
			p.Verdicts[i].Raw = nil
		}
	}
}
