// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	. "waymark/decoder"
	"waymark/decoder/pcapng"
)

const second = 1_000_000_000

// recordingOf is what node records of n packets, one each ms from at on (ns).
func recordingOf(t *testing.T, node string, at uint64, n int) []byte {
	t.Helper()
	w := newTrench()
	w.session.Node = node
	s := newStream(t, w)
	for i := range n {
		s.tcp(uint64(i+1), at+uint64(i)*1_000_000, client4, uint16(1024+i%60000), vip4, 5000, syn).requestToLB()
	}
	s.add(&Context{Time: base + at + uint64(n)*1_000_000, End: &End{}})
	var out bytes.Buffer
	r := NewRecorder(&out, RecorderOptions{})
	s.feed(r)
	must(t, r.Close())
	return out.Bytes()
}

func of(files ...[]byte) []*Recording {
	var rs []*Recording
	for _, f := range files {
		rs = append(rs, &Recording{In: bytes.NewReader(f)})
	}
	return rs
}

// toldBy are the ids of what rs tell.
func toldBy(rs []*Recording) string {
	var ids []string
	for told := range Merge(rs) {
		ids = append(ids, told.Journey.ID)
	}
	return strings.Join(ids, " ")
}

func TestMergeTellsInOrderOfTime(t *testing.T) {
	a, b := recordingOf(t, "a", 0, 3), recordingOf(t, "b", 500_000, 3)
	later := recordingOf(t, "a", 10*second, 2)
	for _, tt := range []struct {
		name     string
		files    [][]byte
		want     string
		overlaps []bool // of the first with each other
	}{
		{"alone", [][]byte{a}, "a-1 a-2 a-3", nil},
		{"two nodes", [][]byte{a, b}, "a-1 b-1 a-2 b-2 a-3 b-3", []bool{false}},
		{"two nodes, the other way round", [][]byte{b, a}, "a-1 b-1 a-2 b-2 a-3 b-3", []bool{false}},
		{"one node, two times", [][]byte{a, later}, "a-1 a-2 a-3 a~2-1 a~2-2", []bool{false}},
		{"one node, the later first", [][]byte{later, a}, "a~2-1 a~2-2 a~2-3 a-1 a-2", []bool{false}},
		{"one node, one time", [][]byte{a, b, a}, "a-1 a~2-1 b-1 a-2 a~2-2 b-2 a-3 a~2-3 b-3", []bool{false, true}},
		{"nothing in one", [][]byte{recordingOf(t, "c", 0, 0), a}, "a-1 a-2 a-3", []bool{false}},
	} {
		rs := of(tt.files...)
		if got := toldBy(rs); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		for i, r := range rs {
			if r.Err != nil || !r.Result.Ended || r.Status.Lost > 0 {
				t.Errorf("%s: recording %d: %v, %+v", tt.name, i, r.Err, r.Result)
			}
			if i > 0 && (rs[0].Overlaps(r) != tt.overlaps[i-1] || r.Overlaps(rs[0]) != tt.overlaps[i-1]) {
				t.Errorf("%s: recordings 0 and %d overlap: %v", tt.name, i, rs[0].Overlaps(r))
			}
		}
	}
}

// TestMergedAreAsAlone: what each recording tells is what it tells alone, but
// for the ids where nodes have the same name.
func TestMergedAreAsAlone(t *testing.T) {
	alone := map[string]int{}
	var files [][]byte
	for i, sc := range scenes() {
		w := newTrench()
		if sc.world != nil {
			sc.world(w)
		}
		w.session.Node = sc.name
		w.session.WallOffset += int64(i) * 7000
		s := newStream(t, w)
		sc.packets(s)
		var out bytes.Buffer
		r := NewRecorder(&out, RecorderOptions{})
		s.feed(r)
		must(t, r.Close())
		files = append(files, out.Bytes())
		for _, line := range lines(t, s.run(Options{})) {
			alone[line]++
		}
	}
	rs := of(files...)
	for _, r := range rs {
		r.Options.LB = trenchLB{}
	}
	var last WallTime
	for told := range Merge(rs) {
		if told.Time() < last {
			t.Errorf("%s comes late", told.Journey.ID)
		}
		last = told.Time()
		line := lines(t, []*Journey{told.Journey})[0]
		if alone[line]--; alone[line] == 0 {
			delete(alone, line)
		}
	}
	delete(alone, "")
	for line, n := range alone {
		t.Errorf("%d times more alone: %s", n, line)
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += n
	return n, err
}

// TestMergeReadsAsItTells: recordings are read no further than what is told
// needs, and no further at all when the reader has enough.
func TestMergeReadsAsItTells(t *testing.T) {
	const packets = 5000
	files := [][]byte{recordingOf(t, "a", 0, packets), recordingOf(t, "b", packets*1_000_000, packets)}
	rs := of(files...)
	var ins []*counted
	for _, r := range rs {
		in := &counted{Reader: r.In}
		r.In, ins = in, append(ins, in)
	}
	n := 0
	for range Merge(rs) {
		if n++; n == packets/2 {
			break
		}
	}
	if a, b := ins[0].n, ins[1].n; a > len(files[0])*3/4 || b > len(files[1])/4 {
		t.Errorf("after a quarter of all, %d of %d and %d of %d bytes were read", a, len(files[0]), b, len(files[1]))
	}
	for _, r := range rs {
		if r.Err != nil || r.Status == nil {
			t.Errorf("%v, %+v", r.Err, r.Status)
		}
	}
}

func TestMergeOfFaultyRecordings(t *testing.T) {
	good := recordingOf(t, "a", 0, 3)
	text := []byte("this is no recording\n")
	damaged := bytes.Clone(recordingOf(t, "b", 500_000, 3000))
	damaged[bytes.LastIndex(damaged, []byte("waymark\x01"))+12] = 0xff // longer than its block
	damaged[bytes.LastIndex(damaged, []byte("waymark\x01"))+15] = 0xff

	rs := of(good, text)
	if got := toldBy(rs); got != "" || rs[0].Err != nil || !errors.Is(rs[1].Err, pcapng.ErrNotPcapng) {
		t.Errorf("with a text beside it: %q, %v, %v", got, rs[0].Err, rs[1].Err)
	}
	rs = of(good, damaged)
	if got := toldBy(rs); !strings.HasPrefix(got, "a-1 b-1 a-2 b-2 a-3 b-3 b-4") || rs[0].Err != nil || !errors.Is(rs[1].Err, pcapng.ErrCorrupt) {
		t.Errorf("with damage at its end: %.60q, %v, %v", got, rs[0].Err, rs[1].Err)
	}
	cut := recordingOf(t, "b", 500_000, 3)
	rs = of(good, cut[:len(cut)-30])
	if got := toldBy(rs); got != "a-1 b-1 a-2 b-2 a-3 b-3" || rs[1].Err != nil || !rs[1].Result.Truncated {
		t.Errorf("with one cut off: %q, %v, %+v", got, rs[1].Err, rs[1].Result)
	}
}

// TestMergeTellsDropsAndStatus besides journeys.
func TestMergeTellsDropsAndStatus(t *testing.T) {
	s := someOfEach(t)
	s.add(leftOut(1, Budget{OneIn: 8}))
	var out bytes.Buffer
	r := NewRecorder(&out, RecorderOptions{})
	s.feed(r)
	must(t, r.Close())
	rs := of(out.Bytes(), recordingOf(t, "b", 0, 1))
	for _, r := range rs {
		r.Drops = true
	}
	var got []string
	for told := range Merge(rs) {
		switch {
		case told.Drop != nil:
			got = append(got, told.Drop.Journey)
		case told.Status != nil:
			got = append(got, "status")
		}
	}
	if !slices.Equal(got, []string{"n1-3", "status"}) {
		t.Error(got)
	}
}
