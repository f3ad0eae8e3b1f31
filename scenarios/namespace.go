// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Named network namespaces, the way iproute2 keeps them: one bind mount per
// name in /run/netns, so that `ip netns exec` works on a lab.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// NamespaceDir is where named network namespaces live (ip-netns(8)).
const NamespaceDir = "/run/netns"

// threadNamespace is the network namespace of the calling thread; the path
// without "thread-" would name the one of the process's first thread.
const threadNamespace = "/proc/thread-self/ns/net"

// createNamespace makes an empty network namespace called name.
func createNamespace(name string) error {
	if err := shareNamespaceDir(); err != nil {
		return err
	}
	path := filepath.Join(NamespaceDir, name)
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	file.Close()

	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		return unix.Mount(threadNamespace, path, "none", unix.MS_BIND, "")
	})
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("create namespace %s: %w", name, err)
	}
	return nil
}

// shareNamespaceDir makes /run/netns a shared mount of its own, so that a
// namespace unmounted here goes away in every mount namespace. Without it a
// copy of the mount in some container keeps a deleted namespace alive.
func shareNamespaceDir() error {
	if err := os.MkdirAll(NamespaceDir, 0o755); err != nil {
		return err
	}
	dir, err := lockFile(NamespaceDir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()

	err = unix.Mount("", NamespaceDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point yet
		return wrap("share "+NamespaceDir, err)
	}
	if err := unix.Mount(NamespaceDir, NamespaceDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return wrap("bind "+NamespaceDir, err)
	}
	return wrap("share "+NamespaceDir, unix.Mount("", NamespaceDir, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

// removeNamespace forgets the namespace called name; one that is not there, or
// was only half made, is no error. The kernel destroys it when the last process
// in it is gone.
func removeNamespace(name string) error {
	path := filepath.Join(NamespaceDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

// inside runs f on a thread that is in the network namespace ns. Sockets opened
// and processes started by f belong to ns; goroutines started by f do not. f
// must return, not call runtime.Goexit (and so not t.Fatal).
func inside(ns *os.File, f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", ns.Name(), err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread nobody else uses and puts that thread back
// into its network namespace afterwards. If that fails the thread is not given
// back: Go ends a thread whose goroutine exits while locked to it.
func onOwnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNamespace)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		defer home.Close()
		err = f()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// wrap prefixes err with what was being done; nil stays nil.
func wrap(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, err)
}
