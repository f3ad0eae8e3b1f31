// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"io"
	"testing"

	. "waymark/decoder"
)

type keptOpen struct{ *bytes.Buffer }

func (keptOpen) Close() error { return nil }

// TestJoinedParts: parts that follow each other tell what the whole told, also of
// packets that were on their way between two.
func TestJoinedParts(t *testing.T) {
	for name, s := range allScenes(t) {
		var files []*bytes.Buffer
		p := NewParts(PartsOptions{Size: 1, Next: func(int) (io.WriteCloser, error) {
			files = append(files, &bytes.Buffer{})
			return keptOpen{files[len(files)-1]}, nil
		}})
		s.feed(p)
		must(t, p.Close())
		r := &Recording{Options: Options{LB: trenchLB{}}}
		for i, f := range files {
			if i == 0 {
				r.In = f
			} else {
				r.Then = append(r.Then, f)
			}
		}
		var out bytes.Buffer
		text := NewTextWriter(&out, TextOptions{})
		for told := range Merge([]*Recording{r}) {
			must(t, text.Journey(told.Journey))
		}
		if want := printedOf(t, s.feed); r.Err != nil || out.String() != want || len(r.Before) != len(files)-1 {
			t.Errorf("%s: %d parts tell (%v)\n%s\nthe whole told\n%s", name, len(files), r.Err, out.String(), want)
		}
	}
}
