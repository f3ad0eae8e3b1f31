// SPDX-License-Identifier: Apache-2.0

// The initramfs is a chain of uncompressed cpio archives in the "newc" form
// (kernel: Documentation/driver-api/early-userspace/buffer-format.rst).

package vm

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// File type bits of a cpio mode word, as in inode(7).
const (
	modeDir  = 0o040000
	modeChar = 0o020000
	modeFile = 0o100000
	modeLink = 0o120000
)

// cpioWriter writes one archive. The first error sticks and is returned by
// close, so that callers need not check every entry. Parent directories are
// written when first needed, since the kernel does not create them.
type cpioWriter struct {
	w    io.Writer
	n    int64 // bytes written, for padding to 4
	ino  int
	seen map[string]bool
	err  error
}

func newCPIO(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, seen: map[string]bool{".": true, "/": true}}
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.err = err
}

func (c *cpioWriter) pad() {
	if r := c.n % 4; r != 0 {
		c.write(make([]byte, 4-r))
	}
}

// header writes an entry's head; its size bytes of content must follow.
func (c *cpioWriter) header(name string, mode uint32, size int64, major, minor int) {
	c.ino++
	// The two device pairs are the file's home (none) and, for nodes, its own.
	h := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(name)+1, 0)
	c.write([]byte(h + name + "\x00"))
	c.pad()
}

// entryName turns an absolute guest path into an archive name and writes the
// directories above it.
func (c *cpioWriter) entryName(guest string) string {
	name := strings.TrimPrefix(path.Clean("/"+guest), "/")
	c.dir(path.Dir(name))
	return name
}

func (c *cpioWriter) dir(guest string) {
	name := strings.TrimPrefix(path.Clean("/"+guest), "/")
	if name == "" || c.seen[name] {
		return
	}
	c.seen[name] = true
	c.dir(path.Dir(name))
	c.header(name, modeDir|0o755, 0, 0, 0)
}

func (c *cpioWriter) file(guest string, perm fs.FileMode, data []byte) {
	c.header(c.entryName(guest), modeFile|uint32(perm.Perm()), int64(len(data)), 0, 0)
	c.write(data)
	c.pad()
}

func (c *cpioWriter) link(guest, target string) {
	c.header(c.entryName(guest), modeLink|0o777, int64(len(target)), 0, 0)
	c.write([]byte(target))
	c.pad()
}

func (c *cpioWriter) char(guest string, perm uint32, major, minor int) {
	c.header(c.entryName(guest), modeChar|perm, 0, major, minor)
}

// copyFile takes one regular file of the host into the archive.
func (c *cpioWriter) copyFile(guest, host string) error {
	f, err := os.Open(host)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", host)
	}
	c.header(c.entryName(guest), modeFile|uint32(st.Mode().Perm()), st.Size(), 0, 0)
	if c.err != nil {
		return c.err
	}
	// A file that shrinks or grows meanwhile would shift all that follows.
	n, err := io.CopyN(c.w, f, st.Size())
	c.n += n
	if err != nil {
		return fmt.Errorf("%s changed while it was packed: %w", host, err)
	}
	c.pad()
	return c.err
}

// copyTree takes a file or a whole directory of the host into the archive.
// Version control and anything that is neither file, directory nor symbolic
// link stays behind.
func (c *cpioWriter) copyTree(guest, host string) error {
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		at := path.Join(guest, filepath.ToSlash(rel))
		switch {
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.IsDir():
			c.dir(at)
			return c.err
		case p == host && d.Type()&fs.ModeSymlink != 0, d.Type().IsRegular():
			return c.copyFile(at, p) // a path named by the user is followed
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			c.link(at, target)
			return c.err
		}
		return nil
	})
}

// close writes the trailer and returns the first error.
func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0, 0, 0)
	return c.err
}
