// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"testing"
	"time"

	"waymark/bpf"
	. "waymark/decoder"
)

// FuzzStitcher feeds a stream made of the input: whatever a recording holds,
// the stitcher neither panics nor keeps more than it may, and every journey
// can be printed.
func FuzzStitcher(f *testing.F) {
	for _, sc := range slices.Concat(scenes(), natScenes(), bridgeScenes(), vxlanScenes()) {
		w := newTrench()
		if sc.world != nil {
			sc.world(w)
		}
		s := newStream(f, w)
		sc.packets(s)
		s.add(leftOut(0, Budget{Shed: []string{"queue"}, OneIn: 8, SampledOut: 7}), leftOut(1, Budget{}))
		var in []byte
		for _, it := range s.items {
			kind, body := byte(0), []byte(nil)
			switch it := it.(type) {
			case []byte:
				body = it
			case *Context:
				kind = 1
				body, _ = json.Marshal(it)
			}
			in = append(append(in, kind, byte(len(body)), byte(len(body)>>8)), body...)
		}
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const maxOpen = 8
		text, js := NewTextWriter(io.Discard, TextOptions{Color: true}), NewJSONWriter(io.Discard)
		flows := NewFlows()
		var html bytes.Buffer
		page := NewHTMLWriter(&html, HTMLOptions{})
		drop := func(d *Drop) { must(t, text.Drop(d)); must(t, js.Drop(d)) }
		var kinds *DropKinds
		kinds = NewDropKinds(DropKindsOptions{
			First: drop, All: true,
			Repeats: func(c *DropCount) { must(t, text.Drops(c)); must(t, js.Drops(c)) },
			Second:  func() { must(t, text.Top(kinds.Top(5), nil, Screen{Columns: 40, Rows: 5})) },
		})
		st := NewStitcher(Options{
			MaxOpen: maxOpen, LB: trenchLB{}, Linger: time.Millisecond,
			Match: func(p PacketBytes) bool {
				if p.WireLen < len(p.Data) {
					t.Fatalf("%d bytes of a packet of %d", len(p.Data), p.WireLen)
				}
				return true
			},
			Emit: func(j *Journey) {
				must(t, text.Journey(j))
				must(t, js.Journey(j))
				must(t, page.Journey(j))
				flows.Add(j)
			},
			EmitDrop:   func(d *Drop) { drop(d); kinds.Add(d) },
			EmitNormal: kinds.Add,
			EmitClock:  kinds.Clock,
			EmitStatus: func(s *Status) { must(t, text.Status(s)); must(t, js.Status(s)) },
		})
		for len(in) >= 3 {
			n := min(int(in[1])|int(in[2])<<8, len(in)-3)
			kind, body := in[0], in[3:3+n]
			in = in[3+n:]
			if kind&1 == 1 {
				var c Context
				if json.Unmarshal(body, &c) == nil {
					must(t, page.Context(&c))
					must(t, st.Context(&c))
				}
				continue
			}
			if n < bpf.RecordSize {
				if st.Record(body) == nil && !st.Done() {
					t.Fatal("half a record was taken")
				}
				body = append(body[:n:n], make([]byte, bpf.RecordSize-n)...)
			}
			_ = st.Record(body)
			if st.Stats().Open > maxOpen {
				t.Fatalf("%d journeys are open, %d may be", st.Stats().Open, maxOpen)
			}
		}
		st.Flush()
		kinds.Finish(st.Status().Time)
		must(t, text.Totals(kinds.Totals(5)))
		must(t, js.Totals(kinds.Totals(5)))
		if !st.Done() && st.Stats().Open != 0 {
			t.Fatal("Flush left journeys open")
		}
		must(t, page.Close())
		readPage(t, html.String())
		for _, s := range flows.Summaries() {
			must(t, text.Flow(s))
			must(t, js.Flow(s))
		}
	})
}
