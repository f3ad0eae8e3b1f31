// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Kernel modules that change the machine itself, so they go when the lab goes.
// What else netlink can ask for (veth, IPVS, nf_tables' expressions) the kernel
// loads by itself, and nobody minds.

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const bridgeNetfilterModule = "br_netfilter"

// bridgeNetfilterKeys switch br_netfilter on and off for a namespace
// (Documentation/networking/ip-sysctl.rst, /proc/sys/net/bridge).
var bridgeNetfilterKeys = []string{"bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"}

// setBridgeNetfilter lets the bridged packets of a node pass netfilter's IP hooks
// ("1"), or not ("0").
func (w *World) setBridgeNetfilter(node, value string) error {
	for _, key := range bridgeNetfilterKeys {
		if err := w.setSysctl(node, key, value); err != nil {
			return err
		}
	}
	return nil
}

// hasBridgeNetfilter says whether the kernel has br_netfilter now, built in or
// loaded.
func (w *World) hasBridgeNetfilter(node string) (bool, error) {
	found := false
	err := w.Inside(node, func() error {
		_, err := os.Stat(filepath.Join("/proc/sys/net", bridgeNetfilterKeys[0]))
		found = err == nil
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	return found, err
}

// loadBridgeNetfilter sees to it that the kernel has br_netfilter. Loading it
// makes the machine's own bridges, if there are any, ask iptables too: that is
// left to whoever runs the machine.
func (w *World) loadBridgeNetfilter(node string) error {
	if found, err := w.hasBridgeNetfilter(node); found || err != nil {
		return err
	}
	bridge, err := machineUse(bridgeNetfilterModule)
	if err != nil {
		return err
	}
	if bridge != "" {
		return fmt.Errorf("module %s is not loaded, and loading it would put bridge %s of this machine under iptables; load it if that is fine, or bring the lab up with --no-br-netfilter: %w",
			bridgeNetfilterModule, bridge, ErrUnsupported)
	}
	w.record.Modules = append(w.record.Modules, bridgeNetfilterModule)
	if err := w.save(); err != nil { // first: after a crash, down must know it
		return err
	}
	if err := loadModule(bridgeNetfilterModule); err != nil {
		return err
	}
	found, err := w.hasBridgeNetfilter(node)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("the kernel has no module %s and could not load it; install it, or bring the lab up with --no-br-netfilter: %w", bridgeNetfilterModule, ErrUnsupported)
	}
	w.note("module %s was loaded; taking the lab down unloads it", bridgeNetfilterModule)
	return nil
}

// loadModule asks the kernel to load a module by its name: to the question about
// a device it does not know, the kernel tries a module of that name
// (net/core/dev_ioctl.c dev_load), with the modprobe that is configured. Whether it
// worked the caller finds out by looking for what the module brings.
func loadModule(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	// ENODEV is what it must say: a module is no device.
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}

// deviceModules are modules that netlink can ask for, but which bring a device of
// this name to the machine's own namespace.
var deviceModules = map[string]string{"dummy": "dummy0", "ipip": "tunl0"}

// noteModule is called before netlink asks for the module of a type of device,
// which has the type's name. One of deviceModules that is not there yet goes when
// the lab goes.
func (w *World) noteModule(name string) error {
	if deviceModules[name] == "" {
		return nil
	}
	_, err := os.Stat(filepath.Join("/sys/module", name)) // built in or loaded
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	w.record.Modules = append(w.record.Modules, name)
	return w.save()
}

// machineUse names a device, of the namespace waymark runs in, that counts on a
// module; without one it is empty.
func machineUse(module string) (string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return "", fmt.Errorf("list this machine's devices: %w", err)
	}
	for _, l := range links {
		own, up := l.Attrs().Name == deviceModules[module], l.Attrs().Flags&net.FlagUp != 0
		switch {
		case module == bridgeNetfilterModule && l.Type() == "bridge",
			module == l.Type() && (up || !own):
			return l.Attrs().Name, nil
		}
	}
	return "", nil
}

// unloadModules unloads what was loaded for the lab. What the machine has found
// a use for meanwhile, in its own namespace, stays.
func (l *lab) unloadModules() error {
	r, err := l.readRecord()
	if err != nil || r == nil {
		return err
	}
	for _, name := range r.Modules {
		if use, err := machineUse(name); err != nil {
			return err
		} else if use != "" {
			continue
		}
		// ENOENT: it never got loaded, or somebody else unloaded it. EWOULDBLOCK:
		// another module counts on it.
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("unload module %s: %w", name, err)
		}
	}
	return nil
}
