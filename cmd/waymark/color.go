// SPDX-License-Identifier: Apache-2.0

package main

import "os"

// colorful tells whether to use colour on f: only on a terminal, and not if
// NO_COLOR is set (no-color.org).
func colorful(f *os.File) bool {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	return isTerminal(f)
}
