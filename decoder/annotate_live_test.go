// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"reflect"
	"testing"
)

// TestAnnotatorHoldsLittle: beyond what may wait, packets are written without their
// journeys, and nothing is lost.
func TestAnnotatorHoldsLittle(t *testing.T) {
	items := randomItems(newRand(7), 3000)
	var want, got tape
	if _, err := Replay(bytes.NewReader(recorded(t, items)), &want); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 4 << 10, 64 << 10} {
		var out bytes.Buffer
		a := newAnnotator(&out, RecorderOptions{}, Options{}, limit)
		for _, it := range items {
			switch it := it.(type) {
			case []byte:
				_ = a.Record(it) // the stitcher refuses some of these
			case *Context:
				if err := a.Context(it); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		got = tape{}
		if _, err := Replay(&out, &got); err != nil || !reflect.DeepEqual(got.items, want.items) {
			t.Errorf("limit %d: %d items, want %d, %v", limit, len(got.items), len(want.items), err)
		}
	}
}
