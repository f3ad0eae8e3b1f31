// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"waymark/decoder"
)

// Snapshot is the published state of the balancer in the calling thread's
// network namespace, ours or nfqlb: its flows, and their tables read from dir
// (/proc/PID/root/dev/shm for a balancer in a container). A table that is gone
// is left out. Netns, Name, HashMode, PromiscuousPing and Tier are not
// published; ServeOptions and ServeTier find the last three.
func Snapshot(ctx context.Context, dir string) (*decoder.Balancer, error) {
	flows, err := ListFlows(ctx)
	if err != nil {
		return nil, err
	}
	b := new(decoder.Balancer)
	read := make(map[string]bool)
	for _, f := range flows {
		if strings.HasPrefix(f.Name, "#") {
			continue // follows from udpencap
		}
		b.Flows = append(b.Flows, f.FlowSpec)
		if read[f.Target] {
			continue
		}
		read[f.Target] = true
		s, err := ReadShared(dir, f.Target)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b.Tables = append(b.Tables, decoder.BalancerTable{Name: f.Target, OwnFW: s.OwnFWMark, M: s.M, N: s.N, Active: s.Active})
	}
	return b, nil
}

// ServeOptions tells from a process's arguments (/proc/PID/cmdline, split at
// its NULs) whether it is a balancer that serves flows, and with which hash
// mode and ping option.
func ServeOptions(args []string) (c Config, name string, ok bool) {
	if len(args) == 0 {
		return c, "", false
	}
	name = filepath.Base(args[0])
	rest := args[1:]
	switch {
	case name == "nfqlb":
	case strings.HasPrefix(name, "waymark") && len(rest) > 0 && rest[0] == "lb":
		rest = rest[1:]
	default:
		return c, "", false
	}
	if len(rest) == 0 || rest[0] != "flowlb" && rest[0] != "serve" && rest[0] != "lb" {
		return c, "", false
	}
	c.HashMode = HashSCTPPorts // the default
	for i, a := range rest {
		key, value, has := strings.Cut(strings.ReplaceAll(strings.TrimLeft(a, "-"), "_", "-"), "=")
		switch key {
		case "promiscuous-ping":
			c.PromiscuousPing = !has || value == "true"
		case "hash-mode":
			if !has && i+1 < len(rest) {
				value = rest[i+1]
			}
			if value == "0" {
				c.HashMode = HashTuple
			}
		}
	}
	return c, name, true
}

// ServeTier tells from a balancer's arguments which table it shares fragments
// by (--lbshm); "" if none.
func ServeTier(args []string) string {
	for i, a := range args {
		value, ok := strings.CutPrefix(a, "--lbshm")
		switch {
		case ok && strings.HasPrefix(value, "="):
			return value[1:]
		case ok && value == "" && i+1 < len(args):
			return args[i+1]
		}
	}
	return ""
}
