// SPDX-License-Identifier: Apache-2.0

//go:build linux

// The initramfs of one run: the kernel's modules, init, and the payload.

package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
)

// etcFiles are the few files that Go's standard library looks at.
var etcFiles = map[string]string{
	"/etc/hostname": "waymark\n",
	"/etc/hosts":    "127.0.0.1 localhost waymark\n::1 localhost waymark\n",
	"/etc/passwd":   "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534::/:/sbin/nologin\n",
	"/etc/group":    "root:x:0:\nnogroup:x:65534:\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n" +
		"protocols: files\nservices: files\n",
}

// writeInitrd writes the initramfs for r to file.
func writeInitrd(file string, r *Run) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	// The modules are an archive of their own: the kernel takes a chain of them.
	mods, err := os.Open(r.Kernel.Modules)
	if err != nil {
		return err
	}
	defer mods.Close()
	if _, err := io.Copy(f, mods); err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := writePayload(w, r); err != nil {
		return fmt.Errorf("pack the guest: %w", err)
	}
	return errors.Join(w.Flush(), f.Close())
}

func writePayload(w io.Writer, r *Run) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := newCPIO(w)
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/lib", "/var/tmp", r.dir()} {
		c.dir(d)
	}
	c.link("/var/run", "../run") // where ip-netns(8) looks
	// The kernel opens the console before init mounts anything over /dev.
	c.char("/dev/console", 0o600, 5, 1)
	c.char("/dev/null", 0o666, 1, 3)
	for _, name := range slices.Sorted(maps.Keys(etcFiles)) {
		c.file(name, 0o644, []byte(etcFiles[name]))
	}
	config, err := json.Marshal(guestConfig{
		Argv: r.Argv, Env: r.environ(), Dir: r.dir(), Modules: r.Modules,
		Collect: slices.Sorted(maps.Keys(r.Collect)),
	})
	if err != nil {
		return err
	}
	c.file(guestConfigPath, 0o600, config)
	c.link("/sbin/modprobe", "../init") // where the kernel looks

	shared := map[string]bool{}
	add := func(guest, host string) error {
		if err := c.copyTree(guest, host); err != nil {
			return err
		}
		if st, err := os.Stat(host); err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
			return err
		}
		libs, err := sharedFiles(host)
		for _, lib := range libs {
			shared[lib] = true
		}
		return err
	}
	if err := add("/init", self); err != nil {
		return err
	}
	for _, guest := range slices.Sorted(maps.Keys(r.Files)) {
		if err := add(guest, r.Files[guest]); err != nil {
			return err
		}
	}
	for _, lib := range slices.Sorted(maps.Keys(shared)) {
		if err := c.copyFile(lib, lib); err != nil {
			return err
		}
	}
	return c.close()
}
