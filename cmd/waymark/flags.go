// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
)

// newFlags is a flag set whose --help prints help and then the flags.
func newFlags(name, help string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {
		fmt.Fprint(os.Stdout, help)
		if u := fs.FlagUsages(); u != "" {
			fmt.Fprintf(os.Stdout, "flags:\n%s", u)
		}
	}
	return fs
}

// parseFlags parses args and allows at most max arguments that are no flags;
// max < 0 is any number.
func parseFlags(fs *pflag.FlagSet, args []string, max int) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if max >= 0 && fs.NArg() > max {
		return fmt.Errorf("unexpected argument %q; see `waymark %s --help`", fs.Arg(max), fs.Name())
	}
	return nil
}
