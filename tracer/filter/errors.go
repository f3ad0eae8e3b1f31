// SPDX-License-Identifier: Apache-2.0

// What is wrong with a filter, and where.

package filter

import "fmt"

// Error is a filter that was refused. Its text is one line.
type Error struct {
	Text string // the filter as given
	Pos  int    // byte offset in Text of what was refused
	Msg  string
}

func (e *Error) Error() string {
	if e.Pos >= len(e.Text) {
		return fmt.Sprintf("filter: %s, at the end of %q", e.Msg, e.Text)
	}
	const window = 16
	near := e.Text[e.Pos:min(len(e.Text), e.Pos+window)]
	return fmt.Sprintf("filter: %s, at character %d (%q)", e.Msg, e.Pos+1, near)
}
