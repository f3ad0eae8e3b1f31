// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"
)

func TestFragStatsLayout(t *testing.T) {
	// Each number of the struct is its place in it, the time to live 200 ms.
	raw := make([]byte, FragStatsSize)
	for i := 2; i < FragStatsSize/4; i++ {
		binary.NativeEndian.PutUint32(raw[4*i:], uint32(i))
	}
	binary.NativeEndian.PutUint64(raw, 200_000_000)
	s, err := ParseFragStats(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"hsize":2,"ttlMillis":200,"collisions":4,"inserts":5,"rejected":6,"lookups":7,"objGC":8,` +
		`"mtu":10,"bucketsMax":11,"bucketsAllocated":12,"bucketsUsed":13,"fragsMax":14,"fragsAllocated":16,"fragsDiscarded":15,"reAssembled":17}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := ParseFragStats(raw[:FragStatsSize-1]); err == nil {
		t.Error("a short file was read")
	}
}

func FuzzParseFragStats(f *testing.F) {
	f.Add(make([]byte, FragStatsSize))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, err := ParseFragStats(in)
		if err != nil {
			return
		}
		again, err := ParseFragStats(s.Encode())
		if err != nil || *again != *s {
			t.Fatalf("%+v became %+v, %v", s, again, err)
		}
		if !bytes.Equal(again.Encode(), s.Encode()) {
			t.Fatal("two encodings")
		}
	})
}
