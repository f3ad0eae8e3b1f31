// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"waymark/nfqlb"
)

// What a balancer has counted.

func lbStats(args []string) error {
	f := lbFlags("stats", `[--ft-shm NAME]

Prints the counters of the fragment table as JSON.
`)
	shm := f.String("ft-shm", nfqlb.FragStatsName, "name in "+nfqlb.ShmDir+" that the balancer was started with")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	path, err := nfqlb.ShmPath(nfqlb.ShmDir, *shm)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return unsupported(fmt.Errorf("no balancer publishes fragment statistics in %s; see --ft-shm", path))
	}
	if err != nil {
		return unsupported(fmt.Errorf("fragment statistics: %w", err))
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, nfqlb.FragStatsSize))
	if err != nil {
		return fmt.Errorf("fragment statistics: %w", err)
	}
	stats, err := nfqlb.ParseFragStats(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	out, err := json.MarshalIndent(stats, "", "  ")
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	return nil
}
