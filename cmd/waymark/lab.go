// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

// `waymark lab`: bring a known world up, break it, send traffic through it, take
// it down.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"waymark/scenarios"
)

var labCommand = command{
	name:  "lab",
	brief: "bring up a known world, break it, send traffic through it",
	run:   runLab,
}

// labTimeout bounds up, fault and clear: they take about a second, more on a
// busy machine or while another program uses the lab.
const labTimeout = time.Minute

var labCommands = []command{
	{name: "up", brief: "bring a lab up", run: labUp},
	{name: "down", brief: "take a lab down, whatever is left of it", run: labDown},
	{name: "list", brief: "labs and their faults", run: labList},
	{name: "fault", brief: "break a lab, or repair it with --clear", run: labFault},
	{name: "traffic", brief: "send connections or datagrams, and count who answers", run: labTraffic},
	{name: "serve-target", run: labServeTarget, hidden: true},
}

func runLab(args []string) error {
	if len(args) == 0 {
		labHelp(os.Stderr)
		return errors.New("lab: no command given")
	}
	if slices.Contains([]string{"-h", "--help", "help"}, args[0]) {
		labHelp(os.Stdout)
		return nil
	}
	for _, c := range labCommands {
		if c.name == args[0] {
			return labExit(c.run(args[1:]))
		}
	}
	return fmt.Errorf("lab: unknown command %q; `waymark lab --help` lists them", args[0])
}

func labHelp(w io.Writer) {
	fmt.Fprint(w, "usage: waymark lab COMMAND [flags]\n\n")
	for _, c := range labCommands {
		if !c.hidden {
			fmt.Fprintf(w, "  %-8s %s\n", c.name, c.brief)
		}
	}
	fmt.Fprint(w, `
examples:
  waymark lab up meridio
  waymark lab fault meridio rp-filter && waymark lab traffic meridio -c 4
  waymark lab down meridio

A lab is a set of network namespaces called wm-LAB-NODE: look around in one
with `+"`ip netns exec wm-meridio-lb ip rule`"+`.
`)
}

// labExit gives err its exit code.
func labExit(err error) error {
	var coded exitError
	if err == nil || errors.As(err, &coded) {
		return err
	}
	// One line, also for errors that were joined.
	line := strings.ReplaceAll(err.Error(), "\n", "; ")
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, scenarios.ErrUnsupported):
		return unsupported(errors.New(line))
	case errors.Is(err, pflag.ErrHelp):
		return err
	}
	return errors.New(line)
}

// labFlags is a flag set that prints usage on --help.
func labFlags(name, usage string) *pflag.FlagSet {
	f := pflag.NewFlagSet(name, pflag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are printed once, by main
	f.Usage = func() {
		fmt.Fprintf(os.Stdout, "usage: waymark lab %s\n\nflags:\n%s", usage, f.FlagUsages())
	}
	return f
}

// labArgs parses args and wants a number of words between low and high.
func labArgs(f *pflag.FlagSet, args []string, low, high int, want string) ([]string, error) {
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if n := f.NArg(); n < low || n > high {
		return nil, fmt.Errorf("lab %s: want %s; `waymark lab list` lists labs", f.Name(), want)
	}
	return f.Args(), nil
}

// labContext ends with an interrupt, and after timeout unless that is 0.
func labContext(timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if timeout == 0 {
		return ctx, stop
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return ctx, func() { cancel(); stop() }
}

func labUp(args []string) error {
	f := labFlags("up", `up LAB [--balancer FILE] [--external vlan|vxlan] [--no-br-netfilter]

examples:
  waymark lab up meridio
  waymark lab up meridio --external vxlan
  waymark lab up cbr0 --no-br-netfilter
  waymark lab up meridio --balancer /usr/bin/nfqlb`)
	balancer := f.String("balancer", "", "balance with this nfqlb instead of waymark's own balancer")
	external := f.String("external", "", "connect load balancer and gateway by vlan or vxlan instead of a veth pair (lab meridio)")
	noBridge := f.Bool("no-br-netfilter", false, "keep bridged packets from the node's netfilter rules (lab cbr0)")
	words, err := labArgs(f, args, 1, 1, "the name of one lab")
	if err != nil {
		return err
	}
	ctx, cancel := labContext(labTimeout)
	defer cancel()
	start := time.Now()
	w, err := scenarios.Up(ctx, scenarios.Options{Lab: words[0], Balancer: *balancer, External: *external, NoBridgeNetfilter: *noBridge})
	if err != nil {
		return err
	}
	defer w.Close()
	for _, n := range w.Notes() {
		fmt.Fprintln(os.Stderr, "waymark: note:", n)
	}
	fmt.Fprintf(os.Stderr, "waymark: lab %s is up after %d ms\n", w.Name(), time.Since(start).Milliseconds())
	for _, n := range w.Nodes() {
		fmt.Println(w.Namespace(n))
	}
	return nil
}

func labDown(args []string) error {
	f := labFlags("down", "down LAB\n\nexample:\n  waymark lab down meridio")
	words, err := labArgs(f, args, 1, 1, "the name of one lab")
	if err != nil {
		return err
	}
	return scenarios.Down(words[0])
}

func labList(args []string) error {
	f := labFlags("list", `list [-o json]

examples:
  waymark lab list
  waymark lab list -o json | jq -r .fault`)
	output := f.StringP("output", "o", "text", "text, or json: one object per fault")
	if _, err := labArgs(f, args, 0, 0, "no argument"); err != nil {
		return err
	}
	switch *output {
	case "text":
		for _, l := range scenarios.List() {
			state := "down"
			if l.Up {
				state = "up"
			}
			fmt.Printf("%s (%s): %s\n", l.Name, state, l.Brief)
			for _, s := range l.Services {
				fmt.Printf("  traffic --to %-8s %s\n", s.Name, s.Brief)
			}
			for _, fault := range l.Faults {
				set := " "
				if slices.Contains(l.Active, fault.Name) {
					set = "*"
				}
				fmt.Printf("%s %-16s %-4s %s\n", set, fault.Name, fault.Question, fault.Brief)
			}
		}
		return nil
	case "json":
		enc := json.NewEncoder(os.Stdout)
		for _, l := range scenarios.List() {
			for _, fault := range l.Faults {
				row := struct {
					Lab string `json:"lab"`
					scenarios.Fault
					Set bool `json:"set"`
				}{l.Name, fault, slices.Contains(l.Active, fault.Name)}
				if err := enc.Encode(row); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return fmt.Errorf("lab list: output %q: want text or json", *output)
}

func labFault(args []string) error {
	f := labFlags("fault", `fault LAB FAULT | fault LAB [FAULT] --clear

examples:
  waymark lab fault meridio rp-filter
  waymark lab fault meridio rp-filter --clear
  waymark lab fault meridio --clear`)
	clear := f.Bool("clear", false, "repair the fault, or all faults when none is named")
	words, err := labArgs(f, args, 1, 2, "a lab and a fault")
	if err != nil {
		return err
	}
	name := ""
	if len(words) == 2 {
		name = words[1]
	}
	if name == "" && !*clear {
		return fmt.Errorf("lab fault: want the name of a fault, or --clear; `waymark lab list` lists faults")
	}
	w, err := scenarios.Load(words[0])
	if err != nil {
		return err
	}
	defer w.Close()
	ctx, cancel := labContext(labTimeout)
	defer cancel()
	if *clear {
		return w.Clear(ctx, name)
	}
	return w.Fault(ctx, name)
}

func labTraffic(args []string) error {
	f := labFlags("traffic", `traffic LAB [flags]

Exits 1 if a connection failed.

examples:
  waymark lab traffic meridio -c 24
  waymark lab traffic meridio -c 1000 --udp -6 --rate 200/s
  waymark lab traffic ipvs --to tunnel -c 24
  waymark lab traffic cbr0 --to hairpin -o json`)
	f.SortFlags = false
	var t scenarios.Traffic
	trafficFlags(f, &t)
	rate := f.String("rate", "", "connections per second, as in 100/s (default: as fast as they end)")
	port := f.Uint16("port", 0, "port to send to (default: the service's)")
	src := f.String("src", "", "source ADDRESS or ADDRESS:PORT; ports count up (default: the lab's client)")
	output := f.StringP("output", "o", "text", "text or json")
	words, err := labArgs(f, args, 1, 1, "the name of one lab")
	if err != nil {
		return err
	}
	if t.Rate, err = parseRate(*rate); err != nil {
		return err
	}
	if t.Source, err = parseSource(*src); err != nil {
		return err
	}
	t.Port = *port
	if t.Connections < 1 || t.Concurrency < 1 || t.Size < 1 || t.Port == 0 && f.Changed("port") {
		return errors.New("lab traffic: -c, --concurrency, --size and --port start at 1")
	}
	if *output != "text" && *output != "json" {
		return fmt.Errorf("lab traffic: output %q: want text or json", *output)
	}
	w, err := scenarios.Load(words[0])
	if err != nil {
		return err
	}
	defer w.Close()
	ctx, cancel := labContext(0)
	defer cancel()
	sum, err := w.Send(ctx, t, nil)
	if err != nil && sum.Sent == 0 {
		return err
	}
	if err := printTraffic(os.Stdout, sum, *output); err != nil {
		return err
	}
	if err != nil {
		return problem(fmt.Errorf("interrupted after %d of %d", sum.Sent, t.Connections))
	}
	if sum.Failed > 0 {
		return problem(fmt.Errorf("%d of %d %s exchanges with %s failed", sum.Failed, sum.Sent, sum.Proto, sum.Dst))
	}
	return nil
}

// trafficFlags are the flags that say what traffic is.
func trafficFlags(f *pflag.FlagSet, t *scenarios.Traffic) {
	f.IntVarP(&t.Connections, "count", "c", 1, "number of connections, or of datagrams with --udp")
	f.StringVar(&t.To, "to", "", "one of the lab's services; `waymark lab list` names them (default: the first)")
	f.BoolVar(&t.UDP, "udp", false, "datagrams instead of connections")
	f.BoolVar(&t.Ping, "ping", false, "echo requests instead of connections")
	f.BoolVarP(&t.IPv6, "ipv6", "6", false, "IPv6 instead of IPv4")
	f.IntVar(&t.Concurrency, "concurrency", 16, "connections open at a time")
	f.IntVar(&t.Size, "size", 32, "bytes per request")
	f.BoolVar(&t.ReverseFragments, "reverse-fragments", false, "datagrams in fragments, the last one first (with --udp and --size)")
	f.DurationVar(&t.Timeout, "timeout", 2*time.Second, "time for one connection, or for each part of it")
	f.DurationVar(&t.Pause, "pause", 0, "send a second request after so long")
	f.StringVar(&t.Amid, "amid", "", "send a second request after setting this fault of the lab, when all connections were answered once")
	f.BoolVar(&t.Again, "again", false, "close in between, and connect again from the same port for the second request")
}

func printTraffic(w io.Writer, sum scenarios.Summary, output string) error {
	if output == "json" {
		return json.NewEncoder(w).Encode(sum)
	}
	fmt.Fprintf(w, "%s %s: %d sent, %d answered, %d failed, %d ms\n",
		sum.Proto, sum.Dst, sum.Sent, sum.Answered, sum.Failed, sum.Duration.Milliseconds())
	for _, name := range slices.Sorted(maps.Keys(sum.Targets)) {
		fmt.Fprintf(w, "  %6d %s\n", sum.Targets[name], name)
	}
	for _, text := range slices.Sorted(maps.Keys(sum.Errors)) {
		fmt.Fprintf(w, "  %6d failed: %s\n", sum.Errors[text], text)
	}
	return nil
}

// parseRate reads "N" or "N/s"; nothing is 0, no limit.
func parseRate(s string) (float64, error) {
	if s == "" {
		return 0, nil
	}
	r, err := strconv.ParseFloat(strings.TrimSuffix(s, "/s"), 64)
	if err != nil || !(r > 0) || math.IsInf(r, 0) {
		return 0, fmt.Errorf("rate %q: want a number of connections per second, as in 100/s", s)
	}
	return r, nil
}

// parseSource reads ADDRESS, ADDRESS:PORT or :PORT; nothing is the zero value, and
// so is the address that is left out.
func parseSource(s string) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0), nil
	}
	if port, ok := strings.CutPrefix(s, ":"); ok {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
		}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("source %q: want ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT or :PORT", s)
	}
	return ap, nil
}

// labServeTarget is the process of one target.
func labServeTarget(args []string) error {
	f := labFlags("serve-target", "serve-target NAME ADDRESS:PORT...")
	fd := f.Int("ready-fd", -1, "write \"ready\" to this file descriptor when it listens")
	words, err := labArgs(f, args, 2, 64, "a name and addresses")
	if err != nil {
		return err
	}
	var addrs []netip.AddrPort
	for _, word := range words[1:] {
		a, err := netip.ParseAddrPort(word)
		if err != nil {
			return err
		}
		addrs = append(addrs, a)
	}
	var ready io.WriteCloser
	if *fd >= 0 {
		ready = os.NewFile(uintptr(*fd), "ready")
	}
	ctx, cancel := labContext(0)
	defer cancel()
	return scenarios.ServeTarget(ctx, words[0], addrs, ready)
}
