// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// parseMark parses MARK[/MASK], each decimal or 0x hex. An empty string is no
// mark: mask 0.
func parseMark(s string) (mark, mask uint32, err error) {
	if s == "" {
		return 0, 0, nil
	}
	m, rest, masked := strings.Cut(s, "/")
	v, err := strconv.ParseUint(m, 0, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("--mark %s: give a number such as 5048 or 0x13b8, with /MASK if wanted", s)
	}
	mask = 0xffffffff
	if masked {
		w, err := strconv.ParseUint(rest, 0, 32)
		if err != nil || w == 0 {
			return 0, 0, fmt.Errorf("--mark %s: the mask must be a number other than 0", s)
		}
		mask = uint32(w)
	}
	return uint32(v), mask, nil
}
