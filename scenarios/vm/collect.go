// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Files that come back from the guest.

package vm

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// collector writes collected files as their frames arrive.
type collector struct {
	run  *Run
	f    *os.File
	left int64
}

func (c *collector) frame(kind frameType, data []byte) error {
	if kind == frameFile {
		return c.begin(data)
	}
	if c.f == nil || int64(len(data)) > c.left {
		return fmt.Errorf("collect from the guest: more data than announced")
	}
	c.left -= int64(len(data))
	if _, err := c.f.Write(data); err != nil {
		return fmt.Errorf("collect from the guest: %w", err)
	}
	return nil
}

func (c *collector) begin(data []byte) error {
	if err := c.close(); err != nil {
		return err
	}
	var h fileHead
	if err := json.Unmarshal(data, &h); err != nil {
		return fmt.Errorf("collect from the guest: %w", err)
	}
	name, err := c.place(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("collect from the guest: %w", err)
	}
	c.f, err = os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, fs.FileMode(h.Perm).Perm()|0o600)
	if err != nil {
		return fmt.Errorf("collect from the guest: %w", err)
	}
	c.left = h.Size
	return nil
}

// place is the host path for a collected file. The guest names it, so it must
// not lead out of the directory the user gave.
func (c *collector) place(h fileHead) (string, error) {
	guest := slices.Sorted(maps.Keys(c.run.Collect))
	if h.Index < 0 || h.Index >= len(guest) || !filepath.IsLocal(h.Rel) {
		return "", fmt.Errorf("collect from the guest: it sent %q, which nobody asked for", h.Rel)
	}
	return filepath.Join(c.run.Collect[guest[h.Index]], h.Rel), nil
}

// close ends the current file, if any, which must be complete.
func (c *collector) close() error {
	if c.f == nil {
		return nil
	}
	name, err := c.f.Name(), c.f.Close()
	c.f = nil
	if err != nil {
		return fmt.Errorf("collect from the guest: %w", err)
	}
	if c.left != 0 {
		return fmt.Errorf("collect from the guest: %s lacks its last %d bytes", name, c.left)
	}
	return nil
}
