// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestStrictFilter(t *testing.T) {
	for _, c := range []struct {
		all, dev string // empty: there is no file
		want     bool
	}{
		{"0\n", "0\n", false},
		{"1\n", "0\n", true},
		{"0\n", "1\n", true},
		{"1\n", "2\n", false},
		{"2\n", "1\n", false},
		{"1\n", "", true},
		{"", "", false},
		{"x", "0", false},
	} {
		dir := t.TempDir()
		for name, value := range map[string]string{"all": c.all, "tun0": c.dev} {
			if value == "" {
				continue
			}
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "rp_filter"), []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := strictFilter(dir, "tun0"); got != c.want {
			t.Errorf("all %q, device %q: %v", c.all, c.dev, got)
		}
	}
}
