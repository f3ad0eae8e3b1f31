// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
)

// Report is what this kernel and these privileges allow.
type Report struct {
	Type   string       `json:"type"` // "doctor"
	Kernel string       `json:"kernel"`
	Works  bool         `json:"works"` // some hook would attach
	Checks []Check      `json:"checks"`
	Hooks  []HookStatus `json:"hooks"`
}

// Check is one precondition.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Fix    string `json:"fix,omitempty"` // what to do if it is not OK
}

// HookStatus is one row of the hook table on this kernel.
type HookStatus struct {
	Name      string  `json:"name"`
	Group     string  `json:"group"`
	Available bool    `json:"available"`
	Backend   Backend `json:"backend,omitempty"`
	Tells     string  `json:"tells"`
	Lost      string  `json:"lost,omitempty"` // what is lost without it
	Why       string  `json:"why,omitempty"`  // why it is not available
	Cost      string  `json:"cost,omitempty"`
}

// Doctor examines the machine by doing: it loads every program and attaches
// every hook that is bound to no device for a moment. It attaches to no device.
func Doctor() Report {
	r := Report{Type: "doctor", Kernel: KernelRelease()}
	r.Checks = []Check{
		checkBTF(), checkRingbuf(), checkCapabilities(), checkLockdown(), checkTracefs(),
		checkSymbols(), checkQueue(),
	}
	p, err := load(settings{}, Groups)
	if err != nil {
		for _, row := range Hooks {
			r.Hooks = append(r.Hooks, HookStatus{
				Name: row.Name, Group: row.Group, Tells: row.Tells, Lost: row.Lost, Why: oneLine(err),
			})
		}
		return r
	}
	defer p.close()
	for _, row := range Hooks {
		s := status(p, row)
		r.Works = r.Works || s.Available
		r.Hooks = append(r.Hooks, s)
	}
	return r
}

func status(p *programs, row HookRow) HookStatus {
	s := HookStatus{Name: row.Name, Group: row.Group, Tells: row.Tells, Cost: row.Cost, Available: true}
	if row.Group == "device" {
		s.Backend = BackendTCX
		if HaveTCX(p.running[row.Name][0]) != nil {
			s.Backend = BackendClsBPF
		}
		return s
	}
	if err := p.missing[row.Name]; err != nil {
		s.Available, s.Lost, s.Why = false, row.Lost, oneLine(err)
		return s
	}
	s.Backend = p.backends[row.Name]
	return s
}

func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' }), "; ")
}

func checkBTF() Check {
	c := Check{Name: "BTF", Fix: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"}
	if _, err := btf.LoadKernelSpec(); err != nil {
		c.Detail = oneLine(err)
		return c
	}
	return ok(c, "/sys/kernel/btf/vmlinux")
}

func ok(c Check, detail string) Check {
	c.OK, c.Detail, c.Fix = true, detail, ""
	return c
}

func checkRingbuf() Check {
	c := Check{Name: "ring buffer", Fix: "use kernel 5.8 or later, and run as root"}
	if err := features.HaveMapType(ebpf.RingBuf); err != nil {
		c.Detail = oneLine(err)
		return c
	}
	return ok(c, "BPF_MAP_TYPE_RINGBUF")
}

// capabilities needed, by bit: include/uapi/linux/capability.h.
var neededCaps = []struct {
	bit  uint
	name string
}{{12, "CAP_NET_ADMIN"}, {21, "CAP_SYS_ADMIN"}, {38, "CAP_PERFMON"}, {39, "CAP_BPF"}}

func checkCapabilities() Check {
	c := Check{Name: "capabilities", Fix: "run as root (sudo waymark ...)"}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	_, rest, _ := bytes.Cut(status, []byte("CapEff:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	eff, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 16, 64)
	if err != nil {
		c.Detail = "no CapEff in /proc/self/status"
		return c
	}
	var missing, have []string
	for _, n := range neededCaps {
		if eff>>n.bit&1 == 1 {
			have = append(have, n.name)
		} else {
			missing = append(missing, n.name)
		}
	}
	if len(missing) > 0 {
		c.Detail = "missing " + strings.Join(missing, ", ")
		return c
	}
	return ok(c, strings.Join(have, ", "))
}

func checkLockdown() Check {
	c := Check{Name: "lockdown", Fix: "boot with lockdown=none or lockdown=integrity: confidentiality forbids BPF to read kernel memory"}
	b, err := os.ReadFile("/sys/kernel/security/lockdown")
	if err != nil {
		return ok(c, "not in use")
	}
	c.Detail = strings.TrimSpace(string(b))
	if strings.Contains(c.Detail, "[confidentiality]") {
		return c
	}
	return ok(c, c.Detail)
}

func checkTracefs() Check {
	c := Check{Name: "tracefs", Fix: "mount -t tracefs tracefs /sys/kernel/tracing (only kprobes need it, and only before 4.17)"}
	for _, dir := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if _, err := os.Stat(filepath.Join(dir, "events")); err == nil {
			return ok(c, dir)
		}
	}
	c.Detail = "not mounted"
	return c
}

func checkSymbols() Check {
	c := Check{Name: "kernel symbols", Fix: "sysctl kernel.kptr_restrict=0, or run as root; without, drops show addresses"}
	if _, err := loadSymbols(); err != nil {
		c.Detail = oneLine(err)
		return c
	}
	return ok(c, "/proc/kallsyms")
}

func checkQueue() Check {
	c := Check{Name: "NFQUEUE", Fix: "modprobe nfnetlink_queue, or use a kernel with CONFIG_NETFILTER_NETLINK_QUEUE"}
	if _, err := os.Stat("/proc/net/netfilter/nfnetlink_queue"); err == nil {
		return ok(c, "nfnetlink_queue is there")
	}
	pattern := "/lib/modules/" + KernelRelease() + "/kernel/net/netfilter/nfnetlink_queue.ko*"
	if found, _ := filepath.Glob(pattern); len(found) > 0 {
		return ok(c, "module nfnetlink_queue can be loaded")
	}
	c.Detail = "nfnetlink_queue is neither loaded nor a module of this kernel"
	return c
}

// ErrNothingWorks says that no hook can be attached here.
var ErrNothingWorks = errors.New("no hook can be attached on this machine")

// Err is nil if something works.
func (r Report) Err() error {
	if r.Works {
		return nil
	}
	for _, c := range r.Checks {
		if !c.OK {
			return fmt.Errorf("%w: %s: %s; %s", ErrNothingWorks, c.Name, c.Detail, c.Fix)
		}
	}
	return ErrNothingWorks
}
