// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// The balancer's commands: those of nfqlb, with its flags and its output, so
// that this binary under the name nfqlb can take its place.

var lbCommand = command{name: "lb", brief: "the NFQUEUE Maglev balancer and its tables and flows", run: runLB}

// lbSubcommands is every command below lb, in the order help lists them.
func lbSubcommands() []command {
	return append(lbSystemCommands(),
		command{name: "show", brief: "print a table", run: lbShow},
		command{name: "stats", brief: "print the counters of the fragment table", run: lbStats},
		command{name: "fwmark", brief: "print which target a connection has", run: lbFWMark},
		command{name: "flow-set", brief: "add or change a flow of the running balancer", run: lbFlowSet},
		command{name: "flow-delete", brief: "delete a flow", run: lbFlowDelete},
		command{name: "flow-list", brief: "list the flows and how often they matched", run: lbFlowList},
		command{name: "flow-list-names", brief: "list the names of the flows", run: lbFlowListNames},
		command{name: "trace-flow-set", brief: "add or change a flow that picks packets to trace", run: lbTraceFlowSet},
		command{name: "trace-flow-delete", brief: "delete a trace-flow", run: lbTraceFlowDelete},
		command{name: "trace-flow-list", brief: "list the trace-flows", run: lbTraceFlowList},
		command{name: "trace-flow-list-names", brief: "list the names of the trace-flows", run: lbTraceFlowListNames},
		command{name: "primebelow", brief: "print the table size for a wanted size", run: lbPrimeBelow},
		command{name: "version", brief: "print the version", run: lbVersion},
	)
}

func runLB(args []string) error {
	if len(args) == 0 {
		printLBCommands(os.Stderr)
		return fmt.Errorf("no balancer command given; try `waymark lb serve --help`")
	}
	switch args[0] {
	case "help", "-h", "--help":
		printLBCommands(os.Stdout)
		return nil
	}
	for _, c := range lbSubcommands() {
		if c.name == args[0] {
			return c.run(args[1:])
		}
	}
	return fmt.Errorf("unknown balancer command %q; `waymark lb help` lists them", args[0])
}

func printLBCommands(w io.Writer) {
	fmt.Fprint(w, inNameOf("usage: waymark lb COMMAND [flags]\n\n"))
	for _, c := range lbSubcommands() {
		if !c.hidden {
			fmt.Fprintf(w, "  %-22s %s\n", c.name, c.brief)
		}
	}
	fmt.Fprint(w, inNameOf(`
examples:
  waymark lb serve --queue 0:3 --promiscuous-ping --hash-mode 0
  waymark lb init --shm vips --M 10000 --N 100 && waymark lb activate --shm vips --index 47 5048
  waymark lb flow-set --name web --target vips --protocols tcp --dsts 10.0.0.1/32 --dports 5000-5003
`))
}

// lbFlags is the flag set of a balancer command. Flags may be written with
// _ as nfqlb has them. usage is the arguments, then examples or more lines.
func lbFlags(name, usage string) *pflag.FlagSet {
	f := pflag.NewFlagSet("lb "+name, pflag.ContinueOnError)
	f.SortFlags = false
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, flag string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(flag, "_", "-"))
	})
	f.Usage = func() {
		fmt.Printf("usage: %s %s %s\n\n%s", lbName, name, inNameOf(strings.TrimSpace(usage)), inNameOf(f.FlagUsages()))
	}
	return f
}

// parseLB parses args into f and refuses arguments that are no flags unless
// positional says what they are.
func parseLB(f *pflag.FlagSet, args []string, positional string, required ...string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if positional == "" && f.NArg() > 0 {
		return fmt.Errorf("%s takes no argument %q; see --help", f.Name(), f.Arg(0))
	}
	for _, name := range required {
		if !f.Changed(name) {
			return fmt.Errorf("%s needs --%s; see --help", f.Name(), name)
		}
	}
	return nil
}

func lbVersion(args []string) error {
	if err := parseLB(lbFlags("version", ""), args, ""); err != nil {
		return err
	}
	fmt.Println("waymark", version)
	return nil
}
