// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How a running balancer learns of target changes. Tables are changed by other
// processes through a mapping, which no watch reports; but each such process
// opens the file for writing and closes it when it is done (nfqlb by exiting),
// and that is reported. So the directory is watched for closed, renamed and
// written files, and since a writer may keep its mapping open, the tables in
// use are compared every second besides. A change that happens before the
// watch or while its queue overflows is found by the same comparison.

// compareInterval bounds how long a change by a process that never closes the
// file stays unseen. A comparison reads the file once: 40 kB for M=9973.
const compareInterval = time.Second

// WatchShared reloads the balancer's targets when their tables in dir change,
// until ctx ends. changed is told the outcome of each reload that did
// something or failed; it may be nil.
func (b *Balancer) WatchShared(ctx context.Context, dir string, changed func(name string, err error)) error {
	b.mu.Lock()
	b.changed = changed
	b.mu.Unlock()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	events := os.NewFile(uintptr(fd), "inotify") // in Go's poller: it is non-blocking
	defer events.Close()
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MODIFY|unix.IN_MOVED_TO); err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	defer context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })()

	w := watcher{b: b, changed: changed, failed: make(map[string]string)}
	buf := make([]byte, 64<<10)
	for {
		w.reload(b.Targets())
		for next := time.Now().Add(compareInterval); ; {
			events.SetReadDeadline(next)
			if ctx.Err() != nil {
				return nil
			}
			n, err := events.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return fmt.Errorf("watch %s: %w", dir, err)
			}
			names, overflow := inotifyNames(buf[:n])
			if overflow {
				break
			}
			w.reload(names)
		}
	}
}

type watcher struct {
	b       *Balancer
	changed func(string, error)
	failed  map[string]string // last error by name: each is told once
}

func (w *watcher) reload(names []string) {
	for _, name := range names {
		changed, err := w.b.Reload(name)
		if err == nil {
			delete(w.failed, name)
		}
		tell := changed || err != nil && w.failed[name] != err.Error()
		if err != nil {
			w.failed[name] = err.Error()
		}
		if tell && w.changed != nil {
			w.changed(name, err)
		}
	}
}

// inotifyNames are the file names in raw inotify events, each once
// (inotify(7)).
func inotifyNames(raw []byte) (names []string, overflow bool) {
	seen := make(map[string]bool)
	for len(raw) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(raw[4:])
		size := int(binary.NativeEndian.Uint32(raw[12:]))
		if mask&unix.IN_Q_OVERFLOW != 0 || size > len(raw)-unix.SizeofInotifyEvent {
			return nil, true
		}
		end := unix.SizeofInotifyEvent + size
		name := strings.TrimRight(string(raw[unix.SizeofInotifyEvent:end]), "\x00")
		raw = raw[end:]
		if name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names, false
}
