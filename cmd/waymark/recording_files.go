// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"waymark/decoder/pcapng"
)

// recordingFiles are the files of a recording: the one that was named, or with
// rotate a ring of NAME-00001.EXT, NAME-00002.EXT and so on.
type recordingFiles struct {
	path string
	ring bool
	keep int
	file *recordingFile // the first one until next gave it out, then the last
	used bool

	opened atomic.Int64 // files so far
}

func openRecordingFiles(path string, o recordingOptions) (*recordingFiles, error) {
	f := &recordingFiles{path: path, ring: o.rotate > 0, keep: o.keep}
	if f.ring {
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is no file: leave out --rotate", path)
		}
		return f, f.create()
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	f.file = &recordingFile{File: file}
	f.opened.Add(1)
	return f, err
}

// create opens the file of the ring that comes behind those there are.
func (f *recordingFiles) create() error {
	there, err := f.numbers()
	if err != nil {
		return err
	}
	n := 1
	if len(there) > 0 {
		n = there[len(there)-1] + 1
	}
	file, err := os.OpenFile(f.name(n), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	f.file = &recordingFile{File: file}
	f.opened.Add(1)
	return nil
}

// name is that of file n of the ring.
func (f *recordingFiles) name(n int) string {
	ext := filepath.Ext(f.path)
	return fmt.Sprintf("%s-%05d%s", strings.TrimSuffix(f.path, ext), n, ext)
}

// numbers are those of the ring's files that there are, in order; an earlier
// recording's are among them.
func (f *recordingFiles) numbers() ([]int, error) {
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return nil, err
	}
	ext := filepath.Ext(f.path)
	base := strings.TrimSuffix(filepath.Base(f.path), ext) + "-"
	var numbers []int
	for _, e := range entries {
		digits, isOurs := strings.CutPrefix(strings.TrimSuffix(e.Name(), ext), base)
		n, err := strconv.Atoi(digits)
		if isOurs && err == nil && n > 0 && e.Name() == filepath.Base(f.name(n)) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// begin makes the first file ready. Pipes and devices are empty as they are.
func (f *recordingFiles) begin() error {
	if f.ring {
		return f.trim(f.keep)
	}
	info, err := f.file.Stat()
	if err == nil && info.Mode().IsRegular() {
		f.file.regular = true
		err = f.file.Truncate(0)
	}
	return err
}

// trim removes the oldest files of the ring until there are n.
func (f *recordingFiles) trim(n int) error {
	f.file.regular = true
	if f.keep == 0 {
		return nil
	}
	there, err := f.numbers()
	if err != nil {
		return err
	}
	for ; len(there) > n; there = there[1:] {
		if err := os.Remove(f.name(there[0])); err != nil {
			return err
		}
	}
	return nil
}

// next is the file to write to from now on.
func (f *recordingFiles) next() (io.WriteCloser, error) {
	if !f.used {
		f.used = true
		return f.file, nil
	}
	if err := f.trim(f.keep - 1); err != nil {
		return nil, err
	}
	if err := f.create(); err != nil {
		return nil, err
	}
	f.file.regular = true
	return f.file, nil
}

// current is the name of the file that is written to.
func (f *recordingFiles) current() string { return f.file.Name() }

// names is what the files are called, for people.
func (f *recordingFiles) names() string {
	if !f.ring {
		return f.path
	}
	there, err := f.numbers()
	if err != nil || len(there) < 2 {
		return f.current()
	}
	return f.name(there[0]) + " … " + filepath.Base(f.current())
}

// abandon closes the first file, to which nothing was written.
func (f *recordingFiles) abandon() {
	f.file.Close()
	if f.ring {
		os.Remove(f.file.Name())
	}
}

// recordingFile ends with a whole block, also where the disk was full in the
// middle of one.
type recordingFile struct {
	*os.File
	regular bool
	size    int64
}

func (f *recordingFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	if err != nil && f.regular {
		if err := f.Truncate(f.size + int64(pcapng.WholeBlocks(b[:n]))); err != nil {
			return n, err
		}
	}
	f.size += int64(n)
	return n, err
}
