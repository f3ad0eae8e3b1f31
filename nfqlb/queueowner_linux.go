// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// queueOwner is the process that serves queue n of this network namespace, as
// "process PID (NAME)", or "" if that cannot be found out. The kernel tells the
// netlink port of the owner; whose port that is stands in two tables more.
func queueOwner(n uint16) string {
	port := ""
	for f := range procRows("/proc/thread-self/net/netfilter/nfnetlink_queue") {
		if len(f) > 1 && f[0] == strconv.Itoa(int(n)) {
			port = f[1]
		}
	}
	for f := range procRows("/proc/thread-self/net/netlink") { // sk Eth Pid Groups … Inode
		if len(f) < 10 || f[1] != "12" || f[2] != port { // 12 is NETLINK_NETFILTER
			continue
		}
		if pid := holderOf("socket:[" + f[9] + "]"); pid != "" {
			name, _ := os.ReadFile("/proc/" + pid + "/comm") // it may be gone already
			return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(name)))
		}
	}
	return ""
}

// procRows are the fields of each line of a table in /proc; none if it cannot
// be read.
func procRows(path string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		text, err := os.ReadFile(path)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(text)) {
			if !yield(strings.Fields(line)) {
				return
			}
		}
	}
}

// holderOf is the process that has a descriptor of that file open.
func holderOf(file string) (pid string) {
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, d := range descriptors {
		if to, err := os.Readlink(d); err == nil && to == file {
			return strings.Split(d, "/")[2]
		}
	}
	return ""
}
