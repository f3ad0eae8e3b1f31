// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/pflag"

	"waymark/nfqlb"
)

// Changing the shared tables.

func lbSystemCommands() []command {
	return []command{
		{name: "serve", brief: "run the balancer", run: lbServe},
		{name: "flowlb", brief: "serve, by nfqlb's name", run: lbFlowLB, hidden: true},
		{name: "init", brief: "make an empty table for targets", run: lbInit},
		{name: "activate", brief: "add targets to a table", run: lbActivate},
		{name: "deactivate", brief: "take targets out of a table", run: lbDeactivate},
		{name: "delete", brief: "delete a table", run: lbDelete},
		{name: "trace", brief: "print what a running balancer decides", run: lbTrace},
		{name: "loglevel", brief: "print or set the balancers' log level", run: lbLogLevel},
	}
}

func lbInit(args []string) error {
	f := lbFlags("init", "[--shm TABLE] [--M SIZE] [--N TARGETS]")
	shm := f.String("shm", lbDefaultShm, "table")
	own := f.Int("ownfw", 0, "own mark in a load balancer tier")
	m := f.Int("M", 997, "size of the lookup table; taken down to a prime, 100 for each target spread well")
	n := f.Int("N", 32, "most targets")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	prime := nfqlb.PrimeBelow(max(*m, 3))
	if prime != *m {
		fmt.Printf("M adjusted; %d -> %d\n", *m, prime)
	}
	return lbInForce(*shm, nfqlb.InitShared(nfqlb.ShmDir, *shm, *own, prime, *n))
}

func lbActivate(args []string) error {
	f := lbFlags("activate", `[--shm TABLE] MARK...
       waymark lb activate [--shm TABLE] --index I MARK`)
	shm, index := lbIndexFlags(f)
	if err := parseLB(f, args, "MARK"); err != nil {
		return err
	}
	marks, err := lbMarks(f.Args())
	if err != nil {
		return err
	}
	if f.Changed("index") {
		if len(marks) != 1 {
			return fmt.Errorf("activate --index needs one mark, the target's")
		}
		return lbInForce(*shm, nfqlb.ActivateAt(nfqlb.ShmDir, *shm, *index, marks[0]))
	}
	return lbInForce(*shm, nfqlb.Activate(nfqlb.ShmDir, *shm, marks...))
}

func lbDeactivate(args []string) error {
	f := lbFlags("deactivate", `[--shm TABLE] MARK...
       waymark lb deactivate [--shm TABLE] --index I`)
	shm, index := lbIndexFlags(f)
	if err := parseLB(f, args, "MARK"); err != nil {
		return err
	}
	if f.Changed("index") {
		return lbInForce(*shm, nfqlb.DeactivateAt(nfqlb.ShmDir, *shm, *index))
	}
	marks, err := lbMarks(f.Args())
	if err != nil {
		return err
	}
	return lbInForce(*shm, nfqlb.Deactivate(nfqlb.ShmDir, *shm, marks...))
}

func lbDelete(args []string) error {
	f := lbFlags("delete", "--shm TABLE")
	shm := f.String("shm", "", "table")
	if err := parseLB(f, args, "", "shm"); err != nil {
		return err
	}
	return nfqlb.DeleteShared(nfqlb.ShmDir, *shm)
}

func lbIndexFlags(f *pflag.FlagSet) (shm *string, index *int) {
	return f.String("shm", lbDefaultShm, "table"), f.Int("index", 0, "place in the table, from 0")
}

func lbMarks(args []string) ([]int, error) {
	var marks []int
	for _, a := range args {
		m, err := strconv.ParseInt(a, 0, 64)
		if err != nil || m < 0 || m > math.MaxInt32 {
			return nil, fmt.Errorf("%q is no mark from 0 to %d", a, math.MaxInt32)
		}
		marks = append(marks, int(m))
	}
	return marks, nil
}
