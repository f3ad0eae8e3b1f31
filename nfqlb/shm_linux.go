// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// InitShared makes an empty table, or empties the one that is there. m is
// taken down to a prime by the caller (PrimeBelow). A reader sees the old file
// or the whole new one.
func InitShared(dir, name string, own, m, n int) error {
	path, err := ShmPath(dir, name)
	if err != nil {
		return err
	}
	content, err := encodeShared(own, m, n)
	if err != nil {
		return err
	}
	if err := replaceFile(path, content); err != nil {
		return fmt.Errorf("shared table %s: %w", name, err)
	}
	return nil
}

// DeleteShared removes a table; one that is not there is no error. A balancer
// that uses it goes on with the last targets until its flows are deleted.
func DeleteShared(dir, name string) error {
	path, err := ShmPath(dir, name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("shared table %s: %w", name, err)
	}
	return nil
}

// Activate makes each mark a target at the first free index, unless it is one
// already.
func Activate(dir, name string, marks ...int) error {
	return change(dir, name, func(active []int) error {
		for _, mark := range marks {
			if slices.Contains(active, mark) {
				continue
			}
			free := slices.IndexFunc(active, func(m int) bool { return m < 0 })
			if free < 0 {
				return fmt.Errorf("no place for mark %d: all %d are taken, make the table with a larger N", mark, len(active))
			}
			active[free] = mark
		}
		return nil
	})
}

// ActivateAt makes mark the target at index. With indexes of their own, targets
// hash alike in every balancer, whatever the order they came in.
func ActivateAt(dir, name string, index, mark int) error {
	return change(dir, name, func(active []int) error {
		if index < 0 || index >= len(active) {
			return fmt.Errorf("index %d is not within 0-%d", index, len(active)-1)
		}
		active[index] = mark
		return nil
	})
}

// Deactivate takes the targets with these marks out.
func Deactivate(dir, name string, marks ...int) error {
	return change(dir, name, func(active []int) error {
		for _, mark := range marks {
			if i := slices.Index(active, mark); i >= 0 {
				active[i] = -1
			}
		}
		return nil
	})
}

// DeactivateAt takes the target at index out.
func DeactivateAt(dir, name string, index int) error { return ActivateAt(dir, name, index, -1) }

// change lets edit change the targets of a table and writes the result in an
// order that never leaves a slot without a target: first the marks that come,
// then the slots that differ, one store each, last the marks that go. So a
// reader that follows the file while it is mapped, as nfqlb does, finds a
// target for every packet. Changes wait for each other; nfqlb's own do not
// take part in the lock.
func change(dir, name string, edit func(active []int) error) error {
	path, err := ShmPath(dir, name)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("shared table %s: %w; `lb init --shm=%s` makes one", name, err, name)
	}
	// Closing after the stores is what tells a watching balancer.
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("shared table %s: lock: %w", name, err)
	}
	if err := changeFile(f, edit); err != nil {
		return fmt.Errorf("shared table %s: %w", name, err)
	}
	return nil
}

func changeFile(f *os.File, edit func(active []int) error) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	s, err := readShared(f, info.Size())
	if err != nil {
		return err
	}
	active := slices.Clone(s.Active)
	if err := edit(active); err != nil {
		return err
	}
	t, err := NewTable(s.M, s.N, active)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(mem)
	off, err := activeOffset(s.M, s.N, info.Size())
	if err != nil {
		return err
	}
	inLookup, inActive := ints(mem[shmHeader:], s.M), ints(mem[off:], s.N)
	for i, mark := range t.active {
		if mark >= 0 {
			atomic.StoreInt32(&inActive[i], mark)
		}
	}
	for i, index := range t.lookup {
		if inLookup[i] != index {
			atomic.StoreInt32(&inLookup[i], index)
		}
	}
	for i, mark := range t.active {
		if mark < 0 {
			atomic.StoreInt32(&inActive[i], -1)
		}
	}
	return nil
}

// ints is n numbers of the mapped file at mem, aligned since every offset in
// it is a multiple of 4.
func ints(mem []byte, n int) []int32 {
	_ = mem[4*n-1]
	return unsafe.Slice((*int32)(unsafe.Pointer(&mem[0])), n)
}
