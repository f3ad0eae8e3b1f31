// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"os"

	"waymark/decoder"
)

// isTerminal tells whether f is a terminal, or a device like one.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// screenOf is the size of the terminal that f is; zero: it is none. What it really
// is nobody is asked here.
func screenOf(f *os.File) decoder.Screen {
	if !isTerminal(f) {
		return decoder.Screen{}
	}
	return decoder.Screen{Columns: 80, Rows: 24}
}
