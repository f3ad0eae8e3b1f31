// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"waymark/decoder"
	"waymark/tracer/filter"
)

// extcapInterface is the one interface that Wireshark is offered.
const extcapInterface = "waymark"

// extcapFlags are those by which Wireshark calls an extcap (extcap(4)).
type extcapFlags struct {
	lua        bool
	interfaces bool
	dlts       bool
	config     bool
	reload     string
	iface      string
	filter     string
	capture    bool
	fifo       string
	cleanup    bool
	journeys   bool
	payload    string
}

func (x *extcapFlags) add(fs *pflag.FlagSet) {
	fs.BoolVar(&x.lua, "lua", false, "print the script for Wireshark's fields")
	fs.BoolVar(&x.interfaces, "extcap-interfaces", false, "list the interfaces")
	fs.BoolVar(&x.dlts, "extcap-dlts", false, "list the link types")
	fs.BoolVar(&x.config, "extcap-config", false, "list the options")
	fs.StringVar(&x.reload, "extcap-reload-option", "", "list the values of an option again")
	fs.StringVar(&x.iface, "extcap-interface", "", "the interface")
	fs.StringVar(&x.filter, "extcap-capture-filter", "", "the filter; alone, check it")
	fs.BoolVar(&x.capture, "capture", false, "capture")
	fs.StringVar(&x.fifo, "fifo", "", "`FIFO` to capture into")
	fs.StringVar(&x.payload, "payload", "headers", "`HOW` much of packets to capture: off, headers, or full (up to --snaplen)")
	fs.BoolVar(&x.journeys, "journeys", false, "show packets when their journeys are over, with what those tell")
	fs.BoolVar(&x.cleanup, "extcap-cleanup-postkill", false, "clean up after a capture: nothing to do")
	fs.String("extcap-version", "", "of the Wireshark that calls")
	fs.Lookup("extcap-version").NoOptDefVal = "?"
	fs.String("extcap-control-in", "", "no controls are offered")
	fs.String("extcap-control-out", "", "no controls are offered")
	fs.VisitAll(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "extcap-") || f.Name == "output" || f.Name == "count" {
			f.Hidden = true
		}
	})
}

func runExtcap(args []string) error {
	var l live
	var x extcapFlags
	fs := newFlags("extcap", extcapHelp)
	l.flags.add(fs)
	x.add(fs)
	fs.Lookup("follow-reply").NoOptDefVal = "" // Wireshark gives the value as the next argument
	if err := parseFlags(fs, args, 0); err != nil {
		return err
	}
	switch {
	case x.lua:
		fmt.Print(decoder.WiresharkLua)
		return nil
	case x.interfaces:
		fmt.Printf("extcap {version=%s}{display=waymark}\n", version)
		fmt.Printf("interface {value=%s}{display=packets through network namespaces}\n", extcapInterface)
		return nil
	case x.cleanup:
		return nil
	case x.iface == "":
		return errors.New("extcap needs --lua, or --extcap-interface waymark and what to do with it; see `waymark extcap --help`")
	case x.iface != extcapInterface:
		return fmt.Errorf("there is no interface %q; --extcap-interfaces lists them", x.iface)
	case x.dlts:
		// Devices without a link header have a link type of their own in the file.
		fmt.Println("dlt {number=1}{name=EN10MB}{display=Ethernet}")
		return nil
	case x.reload != "":
		return printExtcapValues(os.Stdout, x.reload)
	case x.config:
		return printExtcapConfig(os.Stdout)
	case x.capture:
		return x.run(&l)
	case fs.Changed("extcap-capture-filter"):
		// What is printed is why it is wrong; Wireshark reads it if the exit code is 0.
		if _, err := filter.Parse(strings.Fields(x.filter)); err != nil {
			fmt.Println(err)
		}
		return nil
	}
	return errors.New("--extcap-interface: say what to do: --extcap-dlts, --extcap-config or --capture")
}

// run captures until the reader of the fifo goes or Wireshark ends it (SIGTERM).
func (x *extcapFlags) run(l *live) error {
	if x.fifo == "" {
		return errors.New("--capture needs --fifo FIFO")
	}
	var netns []string
	for _, n := range l.flags.netns { // several that were ticked are one argument
		netns = append(netns, strings.Split(n, ",")...)
	}
	l.flags.netns = slices.DeleteFunc(netns, func(n string) bool { return n == "" })
	if err := l.flags.check(); err != nil {
		return err
	}
	payload, err := decoder.ParsePayload(x.payload)
	if err != nil {
		return fmt.Errorf("--payload: %w", err)
	}
	l.recording.payload = payload // of --write, too
	if x.filter != "" {
		l.filter = strings.Fields(x.filter)
	}
	// Wireshark shows what an extcap says on stderr as an error.
	l.quiet, l.log = true, newLog(l.flags.verbose).Level(zerolog.WarnLevel)
	if l.flags.verbose {
		l.quiet, l.log = false, newLog(true)
	}
	out, err := os.OpenFile(x.fifo, os.O_WRONLY, 0) // waits for the reader
	if err != nil {
		return fmt.Errorf("open the fifo: %w", err)
	}
	defer out.Close()
	// A reader that is stopped must not keep the end from coming.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { _ = out.SetWriteDeadline(time.Now().Add(time.Second)) })

	f, err := newFifo(out, x.journeys, payload)
	if err != nil {
		return err
	}
	l.sinks = []decoder.Sink{f}
	if err := l.run(); err != nil {
		return err
	}
	return f.close()
}
