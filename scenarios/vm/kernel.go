// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Fetching stock kernels from the Debian archive, through the host's apt, which
// checks signatures.

package vm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Kernel is a kernel ready to boot: files in the cache.
type Kernel struct {
	Name    string // the line asked for, such as "6.12"
	Package string // the Debian package
	Version string // its version
	Release string // as uname -r says
	Image   string // path of the boot image
	Modules string // path of the modules' archive (cpio)
}

// metaPackages are the Debian packages that pull in the newest kernel of a
// line, tried in order: which line the plain name stands for depends on the
// Debian release. The cloud flavour is the smallest that has all modules.
var metaPackages = map[string][]string{
	"6.1":  {"linux-image-cloud-amd64"},
	"6.12": {"linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"},
}

// Names lists the kernels that can be asked for, oldest first.
func Names() []string { return []string{"6.1", "6.12"} }

// packFormat is part of the cache's path and grows with every change of what
// is packed, so that no stale archive is ever used.
const packFormat = "v2"

// manifest is kept beside the files in the cache.
type manifest struct {
	Package string            `json:"package"`
	Version string            `json:"version"`
	Release string            `json:"release"`
	SHA256  map[string]string `json:"sha256"` // of each file
}

const (
	imageFile    = "vmlinuz"
	modulesFile  = "modules.cpio"
	manifestFile = "kernel.json"
)

// Fetch returns a kernel by name, from the cache if it is there (no network is
// needed then), else from the Debian archive.
func Fetch(ctx context.Context, name string) (*Kernel, error) {
	dir, unlock, err := openCache(name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	k, err := cached(dir, name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	return download(ctx, dir, name)
}

// Update fetches the newest kernel of that name from the Debian archive and
// replaces the cached one if it succeeds.
func Update(ctx context.Context, name string) (*Kernel, error) {
	dir, unlock, err := openCache(name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return download(ctx, dir, name)
}

func openCache(name string) (dir string, unlock func(), err error) {
	if !slices.Contains(Names(), name) {
		return "", nil, fmt.Errorf("no kernel %q: choose one of %s", name, strings.Join(Names(), ", "))
	}
	cache, err := CacheDir()
	if err != nil {
		return "", nil, err
	}
	dir = filepath.Join(cache, "kernels-"+packFormat, name)
	unlock, err = lockFile(dir+".lock", true)
	return dir, unlock, err
}

// cached opens the kernel kept in dir. The error is fs.ErrNotExist if there is
// none, and something else if there is a damaged one.
func cached(dir, name string) (*Kernel, error) {
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, damaged(dir, err)
	}
	for _, file := range []string{imageFile, modulesFile} {
		sum, err := fileSum(filepath.Join(dir, file))
		if err != nil {
			return nil, damaged(dir, err)
		}
		if sum != m.SHA256[file] {
			return nil, damaged(dir, fmt.Errorf("%s has another checksum", file))
		}
	}
	return &Kernel{
		Name: name, Package: m.Package, Version: m.Version, Release: m.Release,
		Image: filepath.Join(dir, imageFile), Modules: filepath.Join(dir, modulesFile),
	}, nil
}

func damaged(dir string, err error) error {
	return fmt.Errorf("cached kernel in %s is damaged, remove that directory: %v", dir, err)
}

// download resolves, downloads, unpacks and packs a kernel and moves it to dir.
func download(ctx context.Context, dir, name string) (*Kernel, error) {
	for _, tool := range []string{"apt-cache", "apt-get", "dpkg-deb", "xz"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("fetching kernel %s needs %s: use a Debian host (packages %s) or fill %s elsewhere: %w",
				name, tool, strings.Join(DebianPackages, ", "), dir, err)
		}
	}
	m, err := resolve(ctx, name)
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), "fetch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	deb, err := downloadDeb(ctx, work, m)
	if err != nil {
		return nil, err
	}
	tree := filepath.Join(work, "tree")
	if _, err := runTool(ctx, work, "dpkg-deb", "-x", deb, tree); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	made := filepath.Join(work, "made")
	if err := pack(ctx, tree, made, m); err != nil {
		return nil, fmt.Errorf("%s %s: %w", m.Package, m.Version, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(made, dir); err != nil {
		return nil, err
	}
	return cached(dir, name)
}

// resolve finds the package behind the meta package of a kernel line.
func resolve(ctx context.Context, name string) (*manifest, error) {
	var tried []string
	for _, meta := range metaPackages[name] {
		tried = append(tried, meta)
		out, err := runTool(ctx, "", "apt-cache", "show", "--no-all-versions", meta)
		if err != nil {
			continue // apt does not know the meta package
		}
		if pkg, version := kernelDependency(out, name); pkg != "" {
			return &manifest{Package: pkg, Version: version}, nil
		}
	}
	return nil, fmt.Errorf("apt knows no kernel %s (tried %s): Debian 12 with its security archive has it; run apt-get update as root",
		name, strings.Join(tried, ", "))
}

// kernelDependency finds in the meta package's description which package of
// the wanted line it depends on, and its version, e.g.
// "Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)".
func kernelDependency(show []byte, name string) (pkg, version string) {
	sc := bufio.NewScanner(bytes.NewReader(show))
	for sc.Scan() {
		rest, ok := strings.CutPrefix(sc.Text(), "Depends: ")
		if !ok {
			continue
		}
		for dep := range strings.SplitSeq(rest, ",") {
			f := strings.Fields(dep)
			if len(f) > 0 && strings.HasPrefix(f[0], "linux-image-"+name+".") {
				if len(f) == 3 && f[1] == "(=" {
					version = strings.TrimSuffix(f[2], ")")
				}
				return f[0], version
			}
		}
	}
	return "", ""
}

func downloadDeb(ctx context.Context, work string, m *manifest) (string, error) {
	args := []string{"-q", "download"}
	if os.Geteuid() == 0 {
		// apt's own user may not be allowed to write here; the file is checked
		// against the signed lists either way.
		args = append(args, "-o", "APT::Sandbox::User=root")
	}
	spec := m.Package
	if m.Version != "" {
		spec += "=" + m.Version
	}
	if _, err := runTool(ctx, work, "apt-get", append(args, spec)...); err != nil {
		return "", fmt.Errorf("download %s (an old package list names files that are gone: run apt-get update as root): %w", spec, err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s: apt-get left %d packages, not one", spec, len(debs))
	}
	return debs[0], nil
}

// pack makes the cache directory of an unpacked kernel package.
func pack(ctx context.Context, tree, made string, m *manifest) error {
	images, err := filepath.Glob(filepath.Join(tree, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("found %d boot images in the package, not one", len(images))
	}
	m.Release = strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	modules := filepath.Join(tree, "lib", "modules", m.Release)
	if _, err := os.Stat(modules); err != nil {
		modules = filepath.Join(tree, "usr", "lib", "modules", m.Release) // since Debian 13
	}
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	if err := os.Rename(images[0], filepath.Join(made, imageFile)); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(made, modulesFile))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := packModules(ctx, w, modules, m.Release, filepath.Join(tree, "boot", "config-"+m.Release)); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	m.SHA256 = map[string]string{}
	for _, file := range []string{imageFile, modulesFile} {
		if m.SHA256[file], err = fileSum(filepath.Join(made, file)); err != nil {
			return err
		}
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(made, manifestFile), append(b, '\n'), 0o644)
}

func fileSum(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// runTool runs a program to its end in dir; what it complains about becomes
// part of the error.
func runTool(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
