// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// sharedTable makes a table of 9973/100 with the marks 5001+index at the
// given indexes in a directory of its own.
func sharedTable(t testing.TB, name string, targets ...int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := InitShared(dir, name, 0, 9973, 100); err != nil {
		t.Fatal(err)
	}
	for _, i := range targets {
		if err := ActivateAt(dir, name, i, 5001+i); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The sizes and places that nfqlb's C has for M=9973, N=100.
func TestSharedLayout(t *testing.T) {
	dir := sharedTable(t, "x", 47, 57, 66)
	raw, err := os.ReadFile(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) != 4029520 {
		t.Fatalf("file of %d bytes, nfqlb's has 4029520", len(raw))
	}
	int32At := func(off int) int32 {
		return int32(uint32(raw[off]) | uint32(raw[off+1])<<8 | uint32(raw[off+2])<<16 | uint32(raw[off+3])<<24)
	}
	for _, c := range []struct {
		what string
		off  int
		want int32
	}{
		{"own fwmark", 0, 0},
		{"M", 4, 9973},
		{"N", 8, 100},
		{"len", 12, 4029516},
		{"lookup[5449]", 16 + 4*5449, 66},
		{"permutation[1][0]", 16 + 4*(9973+9973), 5625},
		{"permutation[3][1]", 16 + 4*(9973+3*9973+1), (4327 + 2785) % 9973},
		{"active[46]", 16 + 4*(9973+9973*100+46), -1},
		{"active[66]", 16 + 4*(9973+9973*100+66), 5067},
	} {
		if got := int32At(c.off); got != c.want {
			t.Errorf("%s = %d, want %d", c.what, got, c.want)
		}
	}
	if info, _ := os.Stat(filepath.Join(dir, "x")); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, nfqlb's has 0600", info.Mode())
	}
}

func TestActivate(t *testing.T) {
	dir := sharedTable(t, "x")
	step := func(err error, want ...int) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		s, err := ReadShared(dir, "x")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Active[:len(want)]; !slices.Equal(got, want) {
			t.Fatalf("active %v, want %v", got, want)
		}
		table, err := s.Table()
		if err != nil {
			t.Fatal(err)
		}
		for i, index := range s.Lookup {
			if int32(index) != table.lookup[i] {
				t.Fatalf("stored lookup[%d] = %d, belongs %d", i, index, table.lookup[i])
			}
		}
	}
	step(Activate(dir, "x", 101, 102, 102, 103), 101, 102, 103, -1)
	step(Deactivate(dir, "x", 102, 999), 101, -1, 103, -1)
	step(Activate(dir, "x", 104), 101, 104, 103, -1)
	step(ActivateAt(dir, "x", 3, 105), 101, 104, 103, 105)
	step(DeactivateAt(dir, "x", 0), -1, 104, 103, 105)
	step(Deactivate(dir, "x", 103, 104, 105), -1, -1, -1, -1)
	step(InitShared(dir, "x", 0, 997, 32), -1)

	if err := ActivateAt(dir, "x", 32, 1); err == nil {
		t.Error("index 32 of 32 was taken")
	}
	if err := Activate(dir, "nosuch", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := DeleteShared(dir, "x"); err != nil {
		t.Error(err)
	}
	if err := DeleteShared(dir, "x"); err != nil {
		t.Errorf("deleting twice: %v", err)
	}
	for _, bad := range []string{"", "/", "..", "a/b", "../x"} {
		if _, err := ReadShared(dir, bad); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
}

// A reader that has the file mapped, as nfqlb has, finds a target in every
// slot while targets change.
func TestMappedReaderNeverMisses(t *testing.T) {
	dir := sharedTable(t, "x", 1, 2, 3)
	f, err := os.Open(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 4029520, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	lookup, active := ints(mem[16:], 9973), ints(mem[16+4*(9973+9973*100):], 100)

	done := make(chan error, 1)
	go func() {
		for i := range 200 {
			var err error
			if i%2 == 0 {
				err = DeactivateAt(dir, "x", 2)
			} else {
				err = ActivateAt(dir, "x", 2, 5003)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	reads, misses := 0, 0
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			if misses != 0 {
				t.Fatalf("%d of %d lookups found no target", misses, reads)
			}
			return
		default:
		}
		for i := range lookup {
			reads++
			index := atomic.LoadInt32(&lookup[i])
			if index < 0 {
				misses++
				continue
			}
			// The slot may have been moved between the two loads, as it may
			// between nfqlb's: then it no longer points to this target.
			if atomic.LoadInt32(&active[index]) < 0 && atomic.LoadInt32(&lookup[i]) == index {
				misses++
			}
		}
	}
}

func TestWatchShared(t *testing.T) {
	dir := sharedTable(t, "x", 1)
	b := NewBalancer(Config{}, func(name string) (*Table, error) { return LoadTable(dir, name) })
	if err := b.SetFlow(FlowSpec{Name: "f", Target: "x"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan error, 16)
	ended := make(chan error, 1)
	go func() { ended <- b.WatchShared(ctx, dir, func(_ string, err error) { events <- err }) }()
	marks := func() (out []int32) {
		for _, m := range b.state.Load().flows[0].target.Table().active {
			if m >= 0 {
				out = append(out, m)
			}
		}
		return out
	}
	step := func(what string, err error, want ...int32) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		await(t, what, func() bool { return slices.Equal(marks(), want) })
	}
	step("an activation", ActivateAt(dir, "x", 2, 5003), 5002, 5003)
	step("a deactivation", DeactivateAt(dir, "x", 1), 5003)
	step("nothing: deleted tables stay in use", DeleteShared(dir, "x"), 5003)
	step("nothing: a broken file is not used", os.WriteFile(filepath.Join(dir, "x"), []byte("no table"), 0o600), 5003)
	if err := <-events; err != nil {
		t.Errorf("first event: %v", err)
	}
	step("an empty table", InitShared(dir, "x", 0, 997, 32))
	step("a target in it", Activate(dir, "x", 7), 7)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// nfqlb's init shows a file of zeroes behind the header for a moment.
func TestReadSharedBeingMade(t *testing.T) {
	raw, err := encodeShared(0, 7, 2)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw[shmHeader:])
	if s, err := readShared(bytes.NewReader(raw), int64(len(raw))); !errors.Is(err, errBeingMade) {
		t.Fatalf("got %+v, %v", s, err)
	}
}

// Later nfqlb versions store no permutations.
func TestReadSharedWithoutPermutation(t *testing.T) {
	raw, err := encodeShared(3, 7, 2)
	if err != nil {
		t.Fatal(err)
	}
	compact := slices.Concat(raw[:16+4*7], []byte{9, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	s, err := readShared(bytes.NewReader(compact), int64(len(compact)))
	if err != nil || s.OwnFWMark != 3 || !slices.Equal(s.Active, []int{9, -1}) {
		t.Fatalf("got %+v, %v", s, err)
	}
}

func FuzzReadShared(f *testing.F) {
	whole, err := encodeShared(0, 7, 2)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:30])
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := readShared(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		if len(s.Lookup) != s.M || len(s.Active) != s.N {
			t.Fatalf("M=%d N=%d, but %d slots and %d targets", s.M, s.N, len(s.Lookup), len(s.Active))
		}
		if _, err := s.Table(); err != nil {
			t.Fatalf("it was read, but makes no table: %v", err)
		}
	})
}
