// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"waymark/bpf"
	"waymark/decoder"
)

// inodeOf is the inode of a listener's socket.
func inodeOf(t *testing.T, l net.Listener) uint64 {
	t.Helper()
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	defer f.Close()
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	return st.Ino
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// TestOwners: a socket's process is told once, before the record if it is
// known by then; what nobody has is not looked for again.
func TestOwners(t *testing.T) {
	const nobodys = 1 << 40 // inodes of sockets have 32 bits
	early := listenTCP(t)
	c := &capture{}
	s := newStream(Options{Sink: c}, decoder.Session{}, kernelNames{})
	s.owners.begin()
	must(t, s.awaitOwners())
	need := func(inodes ...uint64) {
		for _, inode := range inodes {
			must(t, s.needsOwner(bpf.EncodeExt(bpf.SocketExt{Inode: inode})))
		}
	}
	told := func() (sockets []uint64) {
		for _, ctx := range c.contexts {
			if p := ctx.Process; p != nil && p.PID == os.Getpid() {
				sockets = append(sockets, p.Socket)
			}
		}
		return sockets
	}
	a := inodeOf(t, early)
	need(a, a, 0)
	must(t, s.needsOwner([]byte("damaged")))
	if got := told(); len(got) != 1 || got[0] != a {
		t.Fatalf("told of %v, want %d once", got, a)
	}

	b := inodeOf(t, listenTCP(t)) // opened after the look
	need(b, nobodys)
	must(t, s.lookForOwners(s.owners.last.Add(s.owners.rest-1)))
	if s.owners.look != nil {
		t.Error("it looks again before its time")
	}
	must(t, s.lookForOwners(s.owners.last.Add(s.owners.rest)))
	must(t, s.awaitOwners())
	if got := told(); len(got) != 2 || got[1] != b {
		t.Fatalf("told of %v, want %d and %d", got, a, b)
	}
	need(nobodys)
	must(t, s.lookForOwners(time.Now().Add(time.Hour)))
	if s.owners.look != nil || len(s.owners.wanted) != 0 {
		t.Error("it looks for a socket that nobody had")
	}

	late := inodeOf(t, listenTCP(t)) // when the trace ends, there is no time to wait for
	need(late)
	must(t, s.lastOwners())
	if got := told(); len(got) != 3 || got[2] != late {
		t.Errorf("told of %v, want %d as well", got, late)
	}
}
