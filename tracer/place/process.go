// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// maxSockets bounds the sockets that SocketOwners keeps. A busy proxy has that
// many connections.
const maxSockets = 1 << 17

// SocketOwners looks into /proc for the processes that have sockets open, by the
// sockets' inodes. It takes about 2 µs for each file that any process has open.
// What may not be looked at, or goes away meanwhile, is left out.
func SocketOwners() map[uint64]decoder.Process {
	owners := map[uint64]decoder.Process{}
	proc, err := os.Open("/proc")
	if err != nil {
		return owners
	}
	defer proc.Close()
	names, _ := proc.Readdirnames(-1) // of what is there, also if something just went
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids) // of a server and its workers the first is the server
	for _, pid := range pids {
		ownedBy(pid, owners)
	}
	return owners
}

// ownedBy adds the sockets of a process.
func ownedBy(pid int, owners map[uint64]decoder.Process) {
	dir := "/proc/" + strconv.Itoa(pid)
	fds, err := os.Open(dir + "/fd")
	if err != nil {
		return
	}
	defer fds.Close()
	name := ""
	link := make([]byte, 64) // longer ones are no sockets
	for {
		files, err := fds.Readdirnames(256)
		for _, f := range files {
			n, err := unix.Readlinkat(int(fds.Fd()), f, link)
			if err != nil {
				continue
			}
			inode, ok := socketInode(string(link[:n]))
			if !ok {
				continue
			}
			p, known := owners[inode]
			switch {
			case known && p.PID != pid:
				p.Others++
			case known || len(owners) >= maxSockets: // the same twice
				continue
			default:
				if name == "" {
					name = commandOf(dir)
				}
				p = decoder.Process{Socket: inode, PID: pid, Name: name}
			}
			owners[inode] = p
		}
		if err != nil || len(files) == 0 {
			return
		}
	}
}

// commandOf is the process's name, which it may choose itself: what a terminal
// would not print is left out.
func commandOf(dir string) string {
	comm, _ := os.ReadFile(dir + "/comm")
	name := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(comm))
	return cmp.Or(name, "?")
}

// socketInode reads what a descriptor's link says of a socket: "socket:[4711]".
func socketInode(link string) (uint64, bool) {
	digits, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 64)
	return inode, err == nil
}
