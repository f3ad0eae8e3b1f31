// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Tables are shared between processes as files in /dev/shm, in nfqlb's layout
// (its struct SharedData and MagDataDyn), all of 32 bits, little endian:
//
//	own fwmark | M | N | len | lookup[M] | permutation[N][M] | active[N] | 12 bytes unused
//
// len counts from M's place to the end. Later versions of nfqlb leave the
// permutation out; the file's size tells which it is.
const (
	shmHeader = 16
	shmUnused = 12

	// maxShm keeps a mistyped N from filling the machine's memory.
	maxShm = 1 << 30
)

// ShmDir is where shared tables live on this machine. Those of a container are
// under /proc/PID/root/dev/shm.
const ShmDir = "/dev/shm"

// Shared is the content of a shared table.
type Shared struct {
	OwnFWMark int // the balancer's own mark in a load balancer tier
	M, N      int
	Lookup    []int // as stored: by slot, index of the target or -1
	Active    []int // by index, the target's mark or -1
}

// ShmPath is the file of the table name in dir.
func ShmPath(dir, name string) (string, error) {
	name = strings.TrimPrefix(name, "/") // as shm_open(3) allows
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") || len(name) > maxTarget {
		return "", fmt.Errorf("%q is no name of a shared table", name)
	}
	return filepath.Join(dir, name), nil
}

// ReadShared reads the table name in dir. nfqlb's writer changes the lookup
// slots in place, so Lookup can be half done (-1) at any moment while Active is
// right; Table builds the lookup that belongs to Active.
func ReadShared(dir, name string) (*Shared, error) {
	path, err := ShmPath(dir, name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("shared table %s: %w; `lb init --shm=%s` makes one", name, err, name)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("shared table %s: %w", name, err)
	}
	s, err := readShared(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("shared table %s: %w", name, err)
	}
	return s, nil
}

// LoadTable is the lookup table for the shared table name in dir.
func LoadTable(dir, name string) (*Table, error) {
	s, err := ReadShared(dir, name)
	if err != nil {
		return nil, err
	}
	return s.Table()
}

// Table builds the lookup table for the active targets.
func (s *Shared) Table() (*Table, error) { return NewTable(s.M, s.N, s.Active) }

func readShared(r io.ReaderAt, size int64) (*Shared, error) {
	var head [shmHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, fmt.Errorf("no table: its header of %d bytes cannot be read: %w", shmHeader, err)
	}
	s := &Shared{
		OwnFWMark: int(int32(binary.LittleEndian.Uint32(head[0:]))),
		M:         int(binary.LittleEndian.Uint32(head[4:])),
		N:         int(binary.LittleEndian.Uint32(head[8:])),
	}
	if err := checkSize(s.M, s.N); err != nil {
		return nil, fmt.Errorf("no table: %w", err)
	}
	active, err := activeOffset(s.M, s.N, size)
	if err != nil {
		return nil, err
	}
	if s.Lookup, err = readInts(r, shmHeader, s.M); err != nil {
		return nil, err
	}
	if s.Active, err = readInts(r, active, s.N); err != nil {
		return nil, err
	}
	if allZero(s.Lookup) && allZero(s.Active) {
		return nil, errBeingMade
	}
	return s, nil
}

// errBeingMade: nfqlb writes a new table as zeroes first, header next, and -1
// everywhere last. Taken literally, the zeroes are targets with mark 0.
var errBeingMade = errors.New("the table is being made; try again")

func allZero(list []int) bool {
	return !slices.ContainsFunc(list, func(v int) bool { return v != 0 })
}

// activeOffset is where active[] starts in a file of that size.
func activeOffset(m, n int, size int64) (int64, error) {
	short := int64(shmHeader + 4*m)
	full := short + 4*int64(m)*int64(n)
	switch tail := 4 * int64(n); {
	case size >= full+tail:
		return full, nil
	case size >= short+tail:
		return short, nil
	}
	return 0, fmt.Errorf("a file of %d bytes is too short for M=%d N=%d", size, m, n)
}

func readInts(r io.ReaderAt, off int64, n int) ([]int, error) {
	raw := make([]byte, 4*n)
	if _, err := r.ReadAt(raw, off); err != nil {
		return nil, err
	}
	out := make([]int, n)
	for i := range out {
		out[i] = int(int32(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	return out, nil
}

// encodeShared is a whole file for an empty table, permutations included: a
// foreign nfqlb may activate targets in it.
func encodeShared(own, m, n int) ([]byte, error) {
	if err := checkSize(m, n); err != nil {
		return nil, err
	}
	size := shmHeader + 4*(int64(m)+int64(m)*int64(n)+int64(n)) + shmUnused
	if size > maxShm {
		return nil, fmt.Errorf("a table with M=%d and N=%d takes %d MB; choose a smaller M or N", m, n, size>>20)
	}
	b := make([]byte, size)
	put := func(i int, v int32) { binary.LittleEndian.PutUint32(b[4*i:], uint32(v)) }
	put(0, int32(own))
	put(1, int32(m))
	put(2, int32(n))
	put(3, int32(size-4))
	at := shmHeader / 4
	for range m {
		put(at, -1)
		at++
	}
	for _, r := range permutations(m, n) {
		for range m {
			put(at, r.next)
			at++
			if r.next += r.skip; r.next >= int32(m) {
				r.next -= int32(m)
			}
		}
	}
	for range n {
		put(at, -1)
		at++
	}
	return b, nil
}
