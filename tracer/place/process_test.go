// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketOwners(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File() // a second descriptor of the same socket
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	p := SocketOwners()[st.Ino]
	if p.PID != os.Getpid() || p.Name != strings.TrimSpace(string(comm)) || p.Socket != st.Ino || p.Others != 0 {
		t.Errorf("socket %d is of %+v, want process %d", st.Ino, p, os.Getpid())
	}
}

func FuzzSocketInode(f *testing.F) {
	for _, s := range []string{"socket:[4711]", "socket:[", "socket:[]", "anon_inode:[eventpoll]", "/dev/null", "socket:[99999999999999999999]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, link string) {
		if inode, ok := socketInode(link); ok && !strings.HasPrefix(link, "socket:[") {
			t.Errorf("%q is socket %d", link, inode)
		}
	})
}

func BenchmarkSocketOwners(b *testing.B) {
	for b.Loop() {
		SocketOwners()
	}
}
