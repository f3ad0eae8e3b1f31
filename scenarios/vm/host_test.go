// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCPIO asks cpio(1) what it sees in an archive.
func TestCPIO(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		unable(t, "no second opinion on archives: %v", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree", ".git"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"tree/five": "12345", "tree/.git/config": "x", "tree/empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("five", filepath.Join(dir, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	c := newCPIO(&b)
	c.char("/dev/null", 0o666, 1, 3)
	if err := c.copyTree("/a/b", filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%4 != 0 {
		t.Errorf("%d bytes: the next archive in the chain would not be found", b.Len())
	}
	cmd := exec.Command("cpio", "-tv", "--quiet")
	cmd.Stdin = &b
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := []struct{ mode, name string }{
		{"drwxr-xr-x", "dev"},
		{"crw-rw-rw-", "dev/null"},
		{"drwxr-xr-x", "a"},
		{"drwxr-xr-x", "a/b"},
		{"-rw-r-----", "a/b/empty"},
		{"-rw-r-----", "a/b/five"},
		{"lrwxrwxrwx", "a/b/link -> five"},
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d entries, want %d:\n%s", len(lines), len(want), out)
	}
	for i, w := range want {
		if !strings.HasPrefix(lines[i], w.mode+" ") || !strings.HasSuffix(lines[i], " "+w.name) {
			t.Errorf("entry %q, want %s %s", lines[i], w.mode, w.name)
		}
	}
}

func TestKernelDependency(t *testing.T) {
	for _, tt := range []struct{ name, show, pkg, version string }{
		{"6.1", "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n", "linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"},
		{"6.12", "Depends: foo, linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1), bar\n", "linux-image-6.12.117+deb12-cloud-amd64", "6.12.117-1~deb12u1"},
		{"6.12", "Depends: linux-image-6.12.9-amd64\n", "linux-image-6.12.9-amd64", ""},
		{"6.1", "Depends: linux-image-6.12.117-cloud-amd64 (= 6.12.117-1)\n", "", ""}, // Debian 13's
		{"6.1", "", "", ""},
	} {
		pkg, version := kernelDependency([]byte(tt.show), tt.name)
		if pkg != tt.pkg || version != tt.version {
			t.Errorf("%s in %q: got %q %q", tt.name, tt.show, pkg, version)
		}
	}
}

func FuzzKernelDependency(f *testing.F) {
	f.Add([]byte("Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n"), "6.1")
	f.Add([]byte("Depends: ,, \n\nDepends:"), "")
	f.Fuzz(func(t *testing.T, show []byte, name string) {
		if pkg, _ := kernelDependency(show, name); pkg != "" && !strings.HasPrefix(pkg, "linux-image-"+name+".") {
			t.Errorf("%q is no kernel %q", pkg, name)
		}
	})
}

// cachedKernel makes a cache with a made-up kernel in it.
func cachedKernel(t *testing.T) (dir string) {
	t.Helper()
	cache := t.TempDir()
	t.Setenv("WAYMARK_CACHE", cache)
	dir = filepath.Join(cache, "kernels-"+packFormat, "6.1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m := manifest{Package: "p", Version: "1", Release: "6.1.0-x", SHA256: map[string]string{}}
	for _, file := range []string{imageFile, modulesFile} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
		m.SHA256[file], _ = fileSum(filepath.Join(dir, file))
	}
	b, _ := json.Marshal(m)
	if err := os.WriteFile(filepath.Join(dir, manifestFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestFetchOffline: with a filled cache no tool is needed, let alone a network.
func TestFetchOffline(t *testing.T) {
	dir := cachedKernel(t)
	t.Setenv("PATH", t.TempDir())
	k, err := Fetch(context.Background(), "6.1")
	if err != nil || k.Release != "6.1.0-x" || k.Image != filepath.Join(dir, imageFile) {
		t.Errorf("got %+v, %v", k, err)
	}
	if _, err := Fetch(context.Background(), "6.12"); !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "Debian") {
		t.Errorf("without apt: %v", err)
	}
	if _, err := Update(context.Background(), "6.1"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("update without apt: %v", err)
	}
	if _, err := Fetch(context.Background(), "5.4"); err == nil || !strings.Contains(err.Error(), "6.1, 6.12") {
		t.Errorf("unknown kernel: %v", err)
	}
	r := Run{Kernel: k, Argv: []string{"/x"}}
	if _, err := r.Do(context.Background()); !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "apt-get install qemu") {
		t.Errorf("without qemu: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, imageFile), []byte("rotten"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(context.Background(), "6.1"); err == nil || !strings.Contains(err.Error(), "remove that directory") {
		t.Errorf("damaged cache: %v", err)
	}
}

func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "d", "lock")
	unlock, err := lockFile(name, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockFile(name, false); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	if unlock, err = lockFile(name, true); err != nil {
		t.Fatal(err)
	}
	unlock()
}

// TestSharedFiles: a dynamic program of this system brings its loader.
func TestSharedFiles(t *testing.T) {
	libs, err := sharedFiles("/bin/cat")
	if err != nil || !strings.Contains(strings.Join(libs, " "), "libc.so.6") || !strings.Contains(strings.Join(libs, " "), "ld-linux") {
		t.Errorf("/bin/cat: %v, %v", libs, err)
	}
	if libs, err := sharedFiles("host_test.go"); err != nil || len(libs) > 0 {
		t.Errorf("a text: %v, %v", libs, err)
	}
	if _, err := sharedFiles("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestCollectStaysInside: the guest cannot make the host write elsewhere.
func TestCollectStaysInside(t *testing.T) {
	dir := t.TempDir()
	c := &collector{run: &Run{Collect: map[string]string{"/tmp/out": dir}}}
	for _, head := range []string{
		`{"index":0,"rel":"../evil"}`, `{"index":0,"rel":"/evil"}`, `{"index":1,"rel":"x"}`, `{"index":-1,"rel":"x"}`, `{`,
	} {
		if err := c.frame(frameFile, []byte(head)); err == nil {
			t.Errorf("%s: taken", head)
		}
	}
	if err := c.frame(frameFile, []byte(`{"index":0,"rel":"x","size":2}`)); err != nil {
		t.Fatal(err)
	}
	if err := c.frame(frameFileData, []byte("123")); err == nil {
		t.Error("more than announced was taken")
	}
	if err := c.close(); err == nil {
		t.Error("a file without its end was taken")
	}
}
