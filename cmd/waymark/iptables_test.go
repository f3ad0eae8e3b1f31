// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"waymark/tracer/place"
)

// dropByIPTables drops what a namespace forwards by the policy of
// iptables-legacy. It reports false where the kernel has no such thing.
func dropByIPTables(t *testing.T, namespace string) bool {
	t.Helper()
	ns, err := place.Find(namespace)
	if err != nil {
		t.Fatal(err)
	}
	// iptables-legacy asks for its module itself.
	if out, err := exec.Command("modprobe", "iptable_filter").CombinedOutput(); err != nil {
		t.Logf("modprobe iptable_filter: %v: %s", err, out)
	}
	err = ns.Do(dropForwarded)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOPROTOOPT) {
		t.Logf("this kernel has no iptables-legacy: %v", err)
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// dropForwarded sets the policy of FORWARD in table filter of iptables-legacy to
// drop, as `iptables-legacy -P FORWARD DROP` does: it reads the table, changes the
// verdict of the chain's last rule, and writes it back. The structures are those
// of include/uapi/linux/netfilter_ipv4/ip_tables.h; reading makes the table.
func dropForwarded() error {
	const (
		getInfo, getEntries, setReplace = 64, 65, 64 // IPT_SO_*

		// struct ipt_getinfo
		infoHooks, infoEntries, infoSize, infoLen = 32, 76, 80, 84
		// struct ipt_get_entries, struct ipt_replace
		entriesSize, entriesTable     = 32, 40
		replaceCounters, replaceTable = 84, 96
		// struct ipt_entry; its target is struct xt_standard_target
		counterLen, forward, verdictOffset, drop = 16, 2, 112 + 32, -1 // -NF_DROP - 1
	)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	number := binary.NativeEndian

	info := make([]byte, infoLen)
	copy(info, "filter")
	if err := getsockopt(fd, getInfo, info); err != nil {
		return fmt.Errorf("read the table's size: %w", err)
	}
	size, entries := number.Uint32(info[infoSize:]), number.Uint32(info[infoEntries:])
	table := make([]byte, entriesTable+size)
	copy(table, "filter")
	number.PutUint32(table[entriesSize:], size)
	if err := getsockopt(fd, getEntries, table); err != nil {
		return fmt.Errorf("read the table: %w", err)
	}

	replace := make([]byte, replaceTable+size)
	copy(replace, "filter")
	copy(replace[32:], info[infoHooks:infoHooks+4]) // valid_hooks
	number.PutUint32(replace[36:], entries)
	number.PutUint32(replace[40:], size)
	copy(replace[44:], info[infoHooks+4:infoEntries]) // hook_entry, underflow
	number.PutUint32(replace[replaceCounters:], entries)
	counters := make([]byte, counterLen*entries)
	number.PutUint64(replace[replaceCounters+4:], uint64(uintptr(unsafe.Pointer(&counters[0]))))
	copy(replace[replaceTable:], table[entriesTable:])
	policy := replaceTable + number.Uint32(info[infoHooks+4+20+4*forward:]) + verdictOffset // of underflow
	verdict := int32(drop)
	number.PutUint32(replace[policy:], uint32(verdict))
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_IP, setReplace,
		uintptr(unsafe.Pointer(&replace[0])), uintptr(len(replace)), 0)
	runtime.KeepAlive(counters)
	if errno != 0 {
		return fmt.Errorf("write the table: %w", errno)
	}
	return nil
}

func getsockopt(fd, option int, buffer []byte) error {
	n := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_IP, uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
