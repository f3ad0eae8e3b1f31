// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Which of a kernel's modules go into the guest, and packing them.

package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// guestModules are the modules to pack, as paths below kernel/: a directory
// with everything in it, or one file without its ending. What these need comes
// along.
var guestModules = []string{
	"net/802", "net/8021q", "net/bridge", "net/core", "net/ife", "net/ipv4", "net/ipv6",
	"net/llc", "net/mpls", "net/mptcp", "net/netfilter", "net/netlink", "net/nsh",
	"net/openvswitch", "net/packet", "net/psample", "net/sched", "net/sctp", "net/unix",
	"net/xdp", "net/xfrm",
	"drivers/net/bonding", "drivers/net/dummy", "drivers/net/geneve", "drivers/net/ifb",
	"drivers/net/ipvlan", "drivers/net/macvlan", "drivers/net/macvtap", "drivers/net/nlmon",
	"drivers/net/tap", "drivers/net/team", "drivers/net/tun", "drivers/net/veth",
	"drivers/net/vrf", "drivers/net/vxlan", "drivers/net/wireguard",
}

// requiredModules must be among them: a kernel without one cannot carry the
// scenarios, and the user should hear it when fetching, not in a test.
var requiredModules = []string{
	"br_netfilter", "bridge", "cls_bpf", "dummy", "ip_vs", "ip_vs_rr", "ip_vs_mh",
	"nf_conntrack", "nf_tables", "nfnetlink_queue", "nft_compat", "nft_fib", "nft_queue",
	"sch_ingress", "sch_netem", "tun", "veth", "vxlan", "x_tables", "xt_NFQUEUE",
}

func wanted(rel string) bool {
	rel = strings.TrimPrefix(rel, "kernel/")
	for _, w := range guestModules {
		if strings.HasPrefix(rel, w+"/") || strings.HasPrefix(rel, w+".ko") {
			return true
		}
	}
	return false
}

// packModules writes the archive of one kernel's modules: the selection under
// dir (…/lib/modules/RELEASE) with what it needs, uncompressed, the index, and
// the kernel's configuration as /boot/config-RELEASE.
func packModules(ctx context.Context, w io.Writer, dir, release, config string) error {
	files := map[string]string{} // module name → path below dir
	var queue []string
	err := filepath.WalkDir(filepath.Join(dir, "kernel"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(d.Name(), ".ko") {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		name := moduleName(rel)
		files[name] = rel
		if wanted(rel) {
			queue = append(queue, name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list kernel modules: %w", err)
	}
	index := newModuleIndex()
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin.modinfo"))
	if err != nil {
		return fmt.Errorf("list built-in modules: %w", err)
	}
	index.addBuiltin(builtin)
	out := newCPIO(w)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if _, done := index.modules[name]; done {
			continue
		}
		rel, ok := files[name]
		if !ok {
			continue // a soft dependency by alias, or built in; hard ones are checked below
		}
		ko, err := readModule(ctx, filepath.Join(dir, rel))
		if err != nil {
			return err
		}
		info, err := readModinfo(ko)
		if err != nil {
			return fmt.Errorf("%s: %w", rel, err)
		}
		plain, _, _ := strings.Cut(rel, ".ko")
		guest := "/lib/modules/" + release + "/" + plain + ".ko"
		out.file(guest, 0o644, ko)
		m := index.add(guest, info)
		queue = append(append(queue, m.deps...), m.soft...)
	}
	for _, name := range requiredModules {
		if _, known := index.find(name); !known {
			return fmt.Errorf("this kernel has no module %s, which the scenarios need", name)
		}
	}
	for name := range index.modules {
		if _, err := index.order(name); err != nil {
			return err
		}
	}
	var b bytes.Buffer
	if err := index.writeTo(&b); err != nil {
		return err
	}
	out.file(guestIndexPath, 0o644, b.Bytes())
	if err := out.copyFile("/boot/config-"+release, config); err != nil {
		return err
	}
	return out.close()
}

// readModule reads one module file, decompressed.
func readModule(ctx context.Context, file string) ([]byte, error) {
	switch filepath.Ext(file) {
	case ".ko":
		return os.ReadFile(file)
	case ".xz":
		b, err := exec.CommandContext(ctx, "xz", "-dc", "--", file).Output()
		if err != nil {
			return nil, fmt.Errorf("decompress %s with xz: %w", filepath.Base(file), err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("%s: this compression of modules is not supported", filepath.Base(file))
}
