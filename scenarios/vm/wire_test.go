// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := &frameWriter{w: &b}
	for _, s := range []string{"", "one", "\xa7\x00\n"} {
		if err := w.send(frameStdout, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	whole := b.Bytes()
	for _, want := range []string{"", "one", "\xa7\x00\n"} {
		kind, data, err := readFrame(&b)
		if kind != frameStdout || string(data) != want || err != nil {
			t.Errorf("got %c %q %v, want %q", kind, data, err, want)
		}
	}
	if _, _, err := readFrame(&b); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if _, _, err := readFrame(bytes.NewReader(whole[6:11])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off inside a head: %v", err)
	}
	if _, _, err := readFrame(bytes.NewReader(whole[6:14])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off inside the data: %v", err)
	}
	if _, _, err := readFrame(bytes.NewReader([]byte("login: root"))); err == nil {
		t.Error("text was taken for a frame")
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\xa7x\x00\x00\x00\x02{}"))
	f.Add([]byte("\xa7x\xff\xff\xff\xff"))
	f.Add([]byte("Linux version"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			kind, got, err := readFrame(r)
			if err != nil {
				return
			}
			var b bytes.Buffer
			if err := (&frameWriter{w: &b}).send(kind, got); err != nil {
				t.Fatal(err)
			}
			end := len(data) - r.Len()
			if !bytes.Equal(b.Bytes(), data[end-b.Len():end]) {
				t.Error("a frame does not come back as it was")
			}
		}
	})
}
