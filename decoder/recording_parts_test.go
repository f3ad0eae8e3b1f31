// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
)

// memoryFiles keeps the files of Parts.
type memoryFiles struct{ files []*bytes.Buffer }

func (m *memoryFiles) next(n int) (io.WriteCloser, error) {
	if n != len(m.files)+1 {
		return nil, errors.New("not the next part")
	}
	m.files = append(m.files, &bytes.Buffer{})
	return nopCloser{m.files[n-1]}, nil
}

// inParts records items in parts of size bytes.
func inParts(t testing.TB, items []any, size int64) [][]byte {
	t.Helper()
	var m memoryFiles
	p := NewParts(PartsOptions{Size: size, Next: m.next})
	feed(t, p, items)
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	s, length := p.Stats(), int64(0)
	var files [][]byte
	for _, f := range m.files {
		files = append(files, f.Bytes())
		length += int64(f.Len())
	}
	if s.Bytes != length || s.Records+s.Contexts != uint64(len(items)) {
		t.Errorf("stats %+v of %d items in %d bytes", s, len(items), length)
	}
	return files
}

// manyItems is a long stream: the same packets again and again, with changes of
// the world between them.
func manyItems() []any {
	items := journeyItems()
	items = items[:len(items)-1]
	for n := range uint64(20) {
		for _, item := range journeyItems()[3:] {
			if raw, ok := item.([]byte); ok {
				items = append(items, raw)
			}
		}
		at := testBoot + n*20_000
		items = append(items,
			&Context{Time: at, Device: &Device{Netns: testNS, Index: 7, Name: "nsm-1", MTU: 1000 + int(n)}},
			&Context{Time: at, Device: &Device{Netns: testNS, Index: uint32(100 + n), Name: "new"}},
			&Context{Time: at, Device: &Device{Netns: testNS, Index: uint32(100 + n/2), Name: "new", Removed: true}},
			&Context{Time: at, Process: &Process{Socket: n, PID: 1}},
			&Context{Time: at, Clock: &Clock{Told: at}})
	}
	return append(items, &Context{Time: testBoot + 1e9, End: &End{Records: 9}})
}

// TestParts: each part is a recording that begins with all that holds, and all of
// them together are the one that was recorded.
func TestParts(t *testing.T) {
	items := manyItems()
	files := inParts(t, items, 4000)
	if len(files) < 10 {
		t.Fatalf("%d parts", len(files))
	}
	var whole []any
	var first *Session
	for i, file := range files {
		if len(file) > 4000+5000 {
			t.Errorf("part %d has %d bytes", i+1, len(file))
		}
		var alone, behind tape
		result, err := Replay(bytes.NewReader(file), &alone)
		if err != nil || result.Ended != (i == len(files)-1) || result.Records == 0 {
			t.Fatalf("part %d: %+v, %v", i+1, result, err)
		}
		s, err := ReadSession(bytes.NewReader(file))
		if err != nil || s == nil || s.Part != i+1 || s.Recording == "" || s.Node != "n1" || first != nil && s.Recording != first.Recording {
			t.Fatalf("session %+v of part %d, %v", s, i+1, err)
		}
		if first == nil {
			first = s
		}
		if i == 0 {
			whole = alone.items
			continue
		}
		checkWorld(t, i+1, alone.items, whole)
		if _, err := Replay(bytes.NewReader(file), &continued{Sink: &behind}); err != nil {
			t.Fatal(err)
		}
		whole = append(whole, behind.items...)
	}
	first.Recording, first.Part = "", 0
	whole[0] = &Context{Time: testBoot, Session: first}
	if !reflect.DeepEqual(whole, items) {
		t.Errorf("%d items of %d", len(whole), len(items))
	}
}

// checkWorld wants what was told until then at the start of a part.
func checkWorld(t *testing.T, part int, alone, before []any) {
	t.Helper()
	want := newRecordedHead()
	for _, item := range before {
		if c, ok := item.(*Context); ok {
			want.learn(c)
		}
	}
	for i, c := range want.contexts(part) {
		if i >= len(alone) || !reflect.DeepEqual(alone[i], c) {
			t.Fatalf("part %d begins at %d with %+v, want %+v", part, i, alone[i], c)
		}
	}
}

// Every kind of context is repeated, or known to be of a moment.
func TestPartsKnowEveryContext(t *testing.T) {
	ofAMoment := map[string]bool{"Session": true, "Loss": true, "Clock": true, "End": true}
	typ := reflect.TypeFor[Context]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Name == "Time" {
			continue
		}
		var c Context
		reflect.ValueOf(&c).Elem().Field(i).Set(reflect.New(f.Type.Elem()))
		if repeated := keyOf(&c).kind != headNone; repeated == ofAMoment[f.Name] {
			t.Errorf("a part repeats %s: %v", f.Name, repeated)
		}
	}
}

func TestOnePart(t *testing.T) {
	items := journeyItems()
	if files := inParts(t, items, 0); len(files) != 1 || !bytes.Equal(files[0], recorded(t, items)) {
		t.Errorf("%d parts, or another recording", len(files))
	}
	if files := inParts(t, nil, 4000); len(files) != 0 {
		t.Errorf("%d parts of nothing", len(files))
	}
}

func TestPartsStopWithTheirFile(t *testing.T) {
	full := errors.New("full")
	n := 0
	p := NewParts(PartsOptions{Size: 4000, Next: func(int) (io.WriteCloser, error) {
		if n++; n == 3 {
			return nil, full
		}
		return nopCloser{io.Discard}, nil
	}})
	var err error
	for _, item := range manyItems() {
		if raw, ok := item.([]byte); ok && err == nil {
			err = p.Record(raw)
		}
	}
	if !errors.Is(err, full) || !errors.Is(p.Record(nil), full) || !errors.Is(p.Close(), full) || n != 3 {
		t.Errorf("%v after %d files", err, n)
	}
}

// A world that is longer than a part may be makes parts longer, not a file of each
// record.
func TestPartsOfALongWorld(t *testing.T) {
	items := journeyItems()[:3]
	for i := range uint32(500) {
		items = append(items, &Context{Time: testBoot, Device: &Device{Netns: testNS, Index: 100 + i, Name: "a device of some length"}})
	}
	for range 1000 {
		items = append(items, journeyItems()[3])
	}
	if files := inParts(t, items, 4000); len(files) < 3 || len(files) > 12 {
		t.Errorf("%d parts", len(files))
	}
}
