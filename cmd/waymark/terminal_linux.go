// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"golang.org/x/sys/unix"

	"waymark/decoder"
)

// isTerminal tells whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screenOf is the size of the terminal that f is; zero: it is none.
func screenOf(f *os.File) decoder.Screen {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return decoder.Screen{}
	}
	if size.Row == 0 || size.Col == 0 { // a serial line does not tell
		return decoder.Screen{Columns: 80, Rows: 24}
	}
	return decoder.Screen{Columns: int(size.Col), Rows: int(size.Row)}
}
