// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ShareFragStats makes counters in dir under name that other processes can
// read while they are counted. The file is a new one, so a balancer that had
// the name before counts on unseen; it stays until the next.
func ShareFragStats(dir, name string) (s *FragCounters, unmap func() error, err error) {
	path, err := ShmPath(dir, name)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.CreateTemp(dir, ".waymark-*") // mode 0600, as nfqlb's
	if err != nil {
		return nil, nil, fmt.Errorf("fragment statistics %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(FragStatsSize); err != nil {
		return nil, nil, fmt.Errorf("fragment statistics %s: %w", name, err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, FragStatsSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("fragment statistics %s: mmap: %w", name, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("fragment statistics %s: %w", name, err), unix.Munmap(mem))
	}
	return (*FragCounters)(unsafe.Pointer(&mem[0])), func() error { return unix.Munmap(mem) }, nil
}
