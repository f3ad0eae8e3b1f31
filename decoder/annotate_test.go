// SPDX-License-Identifier: Apache-2.0

package decoder_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"waymark/bpf"
	. "waymark/decoder"
	"waymark/decoder/pcapng"
)

// recordedStream is a recording of s.
func recordedStream(t *testing.T, s *stream) []byte {
	t.Helper()
	s.add(&Context{Time: base + 60*second, End: &End{}})
	var out bytes.Buffer
	r := NewRecorder(&out, RecorderOptions{})
	s.feed(r)
	must(t, r.Close())
	return out.Bytes()
}

// textOf is what text says of a recording.
func textOf(t *testing.T, file []byte) string {
	t.Helper()
	var out bytes.Buffer
	w := NewTextWriter(&out, TextOptions{})
	st := NewStitcher(Options{LB: trenchLB{}, Emit: func(j *Journey) { must(t, w.Journey(j)) }})
	_, err := Replay(bytes.NewReader(file), st)
	must(t, err)
	st.Flush()
	return out.String()
}

// annotated is the annotated copy of a recording.
func annotated(t *testing.T, file []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	told := Merge([]*Recording{{In: bytes.NewReader(file), Options: Options{LB: trenchLB{}}}})
	_, err := Annotate(bytes.NewReader(file), told, &out)
	must(t, err)
	return out.Bytes()
}

// commentsOf are the comments of the packets of a file.
func commentsOf(t *testing.T, file []byte) [][]string {
	t.Helper()
	var all [][]string
	for r := pcapng.NewReader(bytes.NewReader(file)); ; {
		b, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if b.Packet != nil {
			var comments []string
			for _, c := range b.Packet.Comments {
				comments = append(comments, string(c))
			}
			all = append(all, comments)
		}
	}
}

// TestAnnotate: of every scene. The copy replays as the recording, is the same if
// it is annotated again, and every packet of a journey says which one.
func TestAnnotate(t *testing.T) {
	for _, sc := range slices.Concat(scenes(), natScenes(), bridgeScenes(), vxlanScenes()) {
		t.Run(sc.name, func(t *testing.T) {
			w := newTrench()
			if sc.world != nil {
				sc.world(w)
			}
			s := newStream(t, w)
			sc.packets(s)
			file := recordedStream(t, s)
			copied, text := annotated(t, file), textOf(t, file)
			if got := textOf(t, copied); got != text {
				t.Errorf("the copy says\n%s\nthe recording says\n%s", got, text)
			}
			if !bytes.Equal(annotated(t, copied), copied) {
				t.Error("annotated again it is different")
			}
			before, after := commentsOf(t, file), commentsOf(t, copied)
			found := 0
			for i, c := range after {
				if c[0] != before[i][0] {
					t.Errorf("the packet's own comment %q became %q", before[i][0], c[0])
				}
				if len(c) > 1 {
					found++
					if !strings.HasPrefix(c[1], "journey n1-") {
						t.Errorf("%q is no journey", c[1])
					}
				}
			}
			if found == 0 {
				t.Error("no packet has a journey")
			}
		})
	}
}

func TestAnnotateSaysWhatWasDecided(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.tcp(2, 900_000, client4, 40001, vip4, 5000, syn).requestToLB().drop(nsLB, nsm1, 20*us, rNotSpecified, atNFQueue)
	var got []string
	for _, c := range commentsOf(t, annotated(t, recordedStream(t, s))) {
		got = append(got, strings.Join(c, "\n  "))
	}
	want := `egress wm-meridio-gw/ext0
  journey n1-1, hop 1 of 10: delivered (10.0.0.1 is local)`
	if !strings.HasPrefix(strings.Join(got, "\n"), want) {
		t.Errorf("comments:\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		"\n  balancer: flow tshm-stream-a-flow-a, hash 2882910532 → lookup[5449] → target 48, accept, mark 0 → 0x13b8 (5048)\n  route: rule 99 ",
		"\n  journey n1-2, hop 3 of 3: dropped: NOT_SPECIFIED at nf_queue+0x21c\n  because the netfilter queue ",
		"\n  advice: compare ", "\n  mark 0x13b8 (5048) → 0\n",
	} {
		if strings.Count(all, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, all)
		}
	}
}

// TestAnnotateOfCutOff: what is whole is copied.
func TestAnnotateOfCutOff(t *testing.T) {
	file := recordingOf(t, "a", 0, 20)
	file = file[:len(file)*2/3]
	var out bytes.Buffer
	r, err := Annotate(bytes.NewReader(file), Merge([]*Recording{{In: bytes.NewReader(file)}}), &out)
	if err != nil || !r.Truncated || r.Found == 0 || r.Found != r.Packets {
		t.Errorf("%+v, %v", r, err)
	}
	if got := commentsOf(t, out.Bytes()); uint64(len(got)) != r.Packets {
		t.Errorf("%d packets in the copy, want %d", len(got), r.Packets)
	}
	if _, err := Annotate(strings.NewReader("text"), Merge(nil), io.Discard); !errors.Is(err, pcapng.ErrNotPcapng) {
		t.Error("annotated text:", err)
	}
}

// TestExportFlows: a file for each flow, with the packets of both directions.
func TestExportFlows(t *testing.T) {
	s := newStream(t, newTrench())
	s.tcp(1, 0, client4, 40000, vip4, 5000, syn).request()
	s.tcp(2, 200_000, vip4, 5000, client4, 40000, synAck).reply()
	s.tcp(3, 900_000, client4, 40001, vip4, 5000, syn).requestToLB().drop(nsLB, nsm1, 20*us, rNotSpecified, atNFQueue)
	file := recordedStream(t, s)
	files := map[string]*bytes.Buffer{}
	r, err := Export(bytes.NewReader(file), flowsOf(file), func(f ExportFile) (io.WriteCloser, error) {
		files[f.FileName()] = &bytes.Buffer{}
		return noClose{files[f.FileName()]}, nil
	})
	must(t, err)
	packets := func(name string) int {
		if files[name] == nil {
			t.Fatalf("no file %s", name)
		}
		return len(commentsOf(t, files[name].Bytes()))
	}
	there := packets("tcp-" + client4 + "-40000-" + vip4 + "-5000.pcapng")
	lost := packets("tcp-" + client4 + "-40001-" + vip4 + "-5000.pcapng")
	if len(files) != 2 || r.Files != 2 || lost != 3 || r.Packets != uint64(there+lost) || there < 10 {
		t.Errorf("%d files with %d and %d packets: %+v", len(files), there, lost, r)
	}
}

func TestExportManyFlows(t *testing.T) {
	file := recordingOf(t, "a", 0, 1200)
	open := 0
	_, err := Export(bytes.NewReader(file), flowsOf(file), func(ExportFile) (io.WriteCloser, error) {
		open++
		return noClose{io.Discard}, nil
	})
	if !errors.Is(err, ErrManyFlows) || open != 1000 {
		t.Errorf("%d files, %v", open, err)
	}
}

func flowsOf(file []byte) ExportOptions {
	return ExportOptions{Format: ExportPcapng, Flows: Merge([]*Recording{{In: bytes.NewReader(file), Options: Options{LB: trenchLB{}}}})}
}

type noClose struct{ io.Writer }

func (noClose) Close() error { return nil }

// TestAnnotator: what is annotated as it happens is what is annotated later.
func TestAnnotator(t *testing.T) {
	for _, sc := range slices.Concat(scenes(), natScenes(), bridgeScenes(), vxlanScenes()) {
		t.Run(sc.name, func(t *testing.T) {
			w := newTrench()
			if sc.world != nil {
				sc.world(w)
			}
			s := newStream(t, w)
			// The clock ticks behind every record, and ran ahead of what waited when
			// the trace began.
			s.contexts(&Context{Time: base + second/2, Clock: &Clock{}})
			sc.packets(s)
			var ticking []any
			var r bpf.Record
			for _, it := range s.items {
				ticking = append(ticking, it)
				if raw, ok := it.([]byte); ok {
					_, err := r.Decode(raw)
					must(t, err)
					ticking = append(ticking, &Context{Time: r.TimeNs, Clock: &Clock{}})
				}
			}
			s.items = append(ticking, &Context{Time: r.TimeNs + 10*second, Clock: &Clock{}})
			want := annotated(t, recordedStream(t, s))
			var out bytes.Buffer
			a := NewAnnotator(&out, RecorderOptions{}, Options{LB: trenchLB{}})
			s.feed(a)
			must(t, a.Close())
			if got := out.Bytes(); !bytes.Equal(got, want) {
				t.Errorf("comments as it happens %q\nlater %q", commentsOf(t, got), commentsOf(t, want))
			}
		})
	}
}

// aDisk is one that is full after some bytes.
type aDisk struct{ left int }

var errFull = errors.New("no space left")

func (d *aDisk) Write(b []byte) (int, error) {
	if d.left -= len(b); d.left < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestAnnotatorTellsOfAFullDisk(t *testing.T) {
	w := newTrench()
	s := newStream(t, w)
	for i := range uint64(5000) {
		s.tcp(i+1, i*1_000_000, client4, uint16(1024+i), vip4, 5000, syn).requestToLB()
	}
	a := NewAnnotator(&aDisk{left: 10_000}, RecorderOptions{}, Options{})
	for _, it := range s.items {
		switch it := it.(type) {
		case []byte:
			_ = a.Record(it)
		case *Context:
			_ = a.Context(it)
		}
	}
	if err := a.Close(); !errors.Is(err, errFull) {
		t.Error(err)
	}
}
