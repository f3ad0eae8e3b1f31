// SPDX-License-Identifier: Apache-2.0

//go:build linux

// What a program needs in the guest besides itself. Static binaries need
// nothing; a dynamic one (cgo, the race detector) gets its loader and
// libraries.

package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// libraryDirs is where the loader looks without further settings.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib",
}

// sharedFiles returns the loader and the libraries, with those that they need
// in turn, of the program at file. Anything that is no ELF file (a script, data)
// needs nothing. A program for another machine is an error.
func sharedFiles(file string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	var visit func(file string) error
	visit = func(file string) error {
		f, err := elf.Open(file)
		if format := (*elf.FormatError)(nil); errors.As(err, &format) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if f.Machine != elf.EM_X86_64 {
			return fmt.Errorf("%s is built for %v, the guest is x86-64: build it with GOARCH=amd64", file, f.Machine)
		}
		if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
			return nil
		}
		for _, p := range f.Progs {
			if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
				continue
			}
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return fmt.Errorf("%s: read the loader's name: %w", file, err)
			}
			if loader := strings.TrimRight(string(b), "\x00"); !seen[loader] {
				seen[loader] = true
				out = append(out, loader)
			}
		}
		libs, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, lib := range libs {
			if seen[lib] {
				continue
			}
			seen[lib] = true
			at, err := findLibrary(lib)
			if err != nil {
				return fmt.Errorf("%s: %w: build it with CGO_ENABLED=0", file, err)
			}
			out = append(out, at)
			if err := visit(at); err != nil {
				return err
			}
		}
		return nil
	}
	return out, visit(file)
}

func findLibrary(lib string) (string, error) {
	for _, dir := range libraryDirs {
		at := filepath.Join(dir, lib)
		if _, err := os.Stat(at); err == nil {
			return at, nil
		}
	}
	return "", fmt.Errorf("shared library %s is not installed", lib)
}
