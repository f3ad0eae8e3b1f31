// SPDX-License-Identifier: Apache-2.0

// What the guest needs before the payload can run: mounts, loopback, limits,
// and kernel modules.

package vm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// guestMounts in the order they are made. The optional ones depend on the
// kernel's configuration. /tmp and /run stay on the root, which is a tmpfs, for
// a mount would hide payload files there.
var guestMounts = []struct {
	kind, at, data string
	optional       bool
}{
	{"proc", "/proc", "", false},
	{"sysfs", "/sys", "", false},
	{"devtmpfs", "/dev", "", false},
	{"devpts", "/dev/pts", "", true},
	{"tmpfs", "/dev/shm", "", true},
	{"bpf", "/sys/fs/bpf", "mode=0700", false},
	{"tracefs", "/sys/kernel/tracing", "", false},
	{"debugfs", "/sys/kernel/debug", "", true},
	{"securityfs", "/sys/kernel/security", "", true},
	{"cgroup2", "/sys/fs/cgroup", "", false},
}

func mountAll() error {
	// Network namespaces are kept by bind mounts, which need shared parents.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	for _, m := range guestMounts {
		err := os.MkdirAll(m.at, 0o755)
		if err == nil {
			err = unix.Mount(m.kind, m.at, m.kind, 0, m.data)
		}
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	for _, d := range []string{"/run/netns", "/run/lock"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return os.Chmod("/tmp", 0o777|os.ModeSticky)
}

func prepare() error {
	if err := unix.Sethostname([]byte("waymark")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	// Opening the node loads the module; without the node nothing would.
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	limits := map[int]uint64{unix.RLIMIT_NOFILE: 1 << 20, unix.RLIMIT_MEMLOCK: unix.RLIM_INFINITY}
	for what, n := range limits {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("raise resource limit %d: %w", what, err)
		}
	}
	return loopbackUp()
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return nil
}

var errNoModule = errors.New("no such module in the guest")

// loadModule loads what a module name or alias stands for, with what that
// needs. Of several modules behind one alias (a checksum in plain C and one for
// this processor) one that loads is enough. It is errNoModule if there is
// none.
func loadModule(name, params string) error {
	f, err := os.Open(guestIndexPath)
	if err != nil {
		return err
	}
	defer f.Close()
	index, err := readModuleIndex(f)
	if err != nil {
		return err
	}
	mods, known := index.find(name)
	if !known {
		return fmt.Errorf("%w: %s", errNoModule, name)
	}
	var failed error
	loaded := len(mods) == 0 // built in
	for _, m := range mods {
		err := loadInOrder(index, m, params)
		loaded = loaded || err == nil
		failed = errors.Join(failed, err)
	}
	if loaded {
		return nil
	}
	return failed
}

func loadInOrder(index *moduleIndex, name, params string) error {
	order, err := index.order(name)
	if err != nil {
		return err
	}
	for _, m := range order {
		p := ""
		if m.name == name {
			p = params
		}
		err := finitModule(m.path, p)
		if err != nil && m.name == name {
			return fmt.Errorf("load module %s: %w", name, err)
		}
		// Soft dependencies may fail, and without a hard one so does the module.
	}
	return nil
}

func finitModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), params, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil // someone was faster
	}
	return err
}
