// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RunNetns is where named network namespaces are mounted (ip-netns(8)).
const RunNetns = "/run/netns"

// Namespace is one network namespace and how to get into it.
type Namespace struct {
	Inode uint32 // of the nsfs file, as the kernel's records have it
	Name  string // what a person calls it
	Pod   string // NAMESPACE/NAME if known
	Path  string // a file that can be opened to enter it
	PID   int    // a process inside, 0 if only the name holds it
}

// Discover finds every network namespace that a name in /run/netns or a
// process holds. A namespace that only a file descriptor or a socket holds
// cannot be found. What goes away meanwhile is left out without an error.
func Discover() ([]Namespace, error) {
	byInode := map[uint32]*Namespace{}
	if err := discoverNamed(byInode); err != nil {
		return nil, err
	}
	if err := discoverProcesses(byInode); err != nil {
		return nil, err
	}
	all := make([]Namespace, 0, len(byInode))
	for _, ns := range byInode {
		all = append(all, *ns)
	}
	slices.SortFunc(all, func(a, b Namespace) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func discoverNamed(byInode map[uint32]*Namespace) error {
	entries, err := os.ReadDir(RunNetns)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the named network namespaces: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(RunNetns, e.Name())
		inode, err := inodeOf(path)
		if err != nil {
			continue // removed meanwhile, or a name whose mount is gone
		}
		if _, known := byInode[inode]; !known {
			byInode[inode] = &Namespace{Inode: inode, Name: e.Name(), Path: path}
		}
	}
	return nil
}

func discoverProcesses(byInode map[uint32]*Namespace) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("read /proc: %w", err)
	}
	own := hostInode()
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		path := "/proc/" + e.Name() + "/ns/net"
		inode, err := inodeOf(path)
		if err != nil {
			continue
		}
		ns, known := byInode[inode]
		if !known {
			ns = &Namespace{Inode: inode, Path: path, PID: pid}
			byInode[inode] = ns
			if inode == own {
				ns.Name = "host"
			} else {
				ns.Name, ns.Pod = nameByProcess(pid)
			}
		}
		if ns.PID == 0 {
			ns.PID = pid
		}
	}
	return nil
}

// hostInode is the node's own namespace: that of process 1, or of the kernel's
// threads where even root may not look at process 1. Inside a container it is
// the container's.
func hostInode() uint32 {
	if inode, err := inodeOf("/proc/1/ns/net"); err == nil {
		return inode
	}
	if comm, _ := os.ReadFile("/proc/2/comm"); strings.TrimSpace(string(comm)) == "kthreadd" {
		inode, _ := inodeOf("/proc/2/ns/net")
		return inode
	}
	return 0
}

// nameByProcess names a namespace nobody named after a process in it: a pod's
// containers have its name as HOSTNAME; anything else is its command and pid.
func nameByProcess(pid int) (name, pod string) {
	dir := "/proc/" + strconv.Itoa(pid)
	comm, _ := os.ReadFile(dir + "/comm")
	name = fmt.Sprintf("%s[%d]", strings.TrimSpace(string(comm)), pid)
	cgroup, _ := os.ReadFile(dir + "/cgroup")
	if !strings.Contains(string(cgroup), "kubepods") {
		return name, ""
	}
	environ, _ := os.ReadFile(dir + "/environ")
	for v := range strings.SplitSeq(string(environ), "\x00") {
		if host, ok := strings.CutPrefix(v, "HOSTNAME="); ok && host != "" {
			return host, host
		}
	}
	return name, ""
}

// Find returns the namespace that spec means: a name in /run/netns, a path of
// an nsfs file, or a pid.
func Find(spec string) (Namespace, error) {
	if pid, err := strconv.Atoi(spec); err == nil {
		path := "/proc/" + spec + "/ns/net"
		inode, err := inodeOf(path)
		if err != nil {
			return Namespace{}, fmt.Errorf("no network namespace of process %d: %w", pid, errors.Unwrap(err))
		}
		ns := Namespace{Inode: inode, Path: path, PID: pid}
		byInode := map[uint32]*Namespace{}
		if err := discoverNamed(byInode); err == nil && byInode[inode] != nil {
			ns.Name = byInode[inode].Name
		} else {
			ns.Name, ns.Pod = nameByProcess(pid)
		}
		return ns, nil
	}
	path := spec
	if !strings.Contains(spec, "/") {
		path = filepath.Join(RunNetns, spec)
	}
	inode, err := inodeOf(path)
	if err == nil {
		return Namespace{Inode: inode, Name: filepath.Base(path), Path: path}, nil
	}
	all, derr := Discover()
	if derr != nil {
		return Namespace{}, derr
	}
	names := make([]string, 0, len(all))
	for _, ns := range all {
		if ns.Name == spec {
			return ns, nil
		}
		names = append(names, ns.Name)
	}
	return Namespace{}, fmt.Errorf("no network namespace %q: give a name in %s, a path, or a pid; found here: %s",
		spec, RunNetns, strings.Join(names, ", "))
}

// inodeOf is the inode number of an nsfs file; a plain file in its place (a
// leftover of a namespace whose mount went away) is an error.
func inodeOf(path string) (uint32, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("%s: %w", path, errors.New("not a namespace"))
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return uint32(st.Ino), nil
}

// Do runs fn on a thread that is inside the namespace. fn must not start
// goroutines that need to be inside as well.
func (ns Namespace) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: a thread that changed namespace is not given back,
		// it ends with this goroutine.
		runtime.LockOSThread()
		fd, err := unix.Open(ns.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("open network namespace %s: %w", ns.Name, err)
			return
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			done <- fmt.Errorf("open network namespace %s: %w", ns.Name, err)
			return
		}
		if ns.Inode != 0 && uint32(st.Ino) != ns.Inode {
			done <- fmt.Errorf("network namespace %s is gone: %w", ns.Name, os.ErrNotExist)
			return
		}
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s (needs CAP_SYS_ADMIN): %w", ns.Name, err)
			return
		}
		done <- fn()
	}()
	return <-done
}
