// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"io"
	"time"

	"waymark/tracer"
)

// printCosts prints what each hook cost in the time that was traced.
func printCosts(w io.Writer, t *tracer.Tracer, traced time.Duration) error {
	costs, err := t.Costs()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "waymark: cost in %.1fs, as the kernel measured it\n%-20s %12s %8s %10s\n", traced.Seconds(), "hook", "runs", "ns/run", "of one CPU")
	for _, c := range costs {
		var each float64
		if c.Runs > 0 {
			each = float64(c.Time) / float64(c.Runs)
		}
		fmt.Fprintf(w, "%-20s %12d %8.0f %9.2f%%\n", c.Hook, c.Runs, each, 100*float64(c.Time)/float64(traced))
	}
	return nil
}
