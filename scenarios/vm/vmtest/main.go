// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command vmtest runs a test binary (or any program) inside a stock Debian
// kernel under qemu, as if it ran here: its output is streamed, its exit code
// is vmtest's. It compiles nothing itself:
//
//	CGO_ENABLED=0 go test -c -o tracer.test ./tracer
//	vmtest --kernel 6.12 --dir tracer tracer.test -test.v
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"waymark/scenarios/vm"
)

const exitSetup = 126 // nothing was run; 124 and 125 are the machine's, see vm.Result.Command

const usage = `vmtest [flags] PROGRAM [ARGUMENT...]

Runs PROGRAM inside a stock Debian kernel under qemu and exits with its exit
code; 124 if it did not end in time, 125 if the kernel panicked, hung or went
away, 126 if nothing could be run.

  vmtest --kernel 6.1 tracer.test -test.v
  vmtest --kernel 6.12 --dir tracer --file testdata tracer.test -test.run Drop
  vmtest --kernel 6.12 --file waymark:/usr/bin/waymark waymark doctor

`

type options struct {
	kernel   string
	fetch    bool
	update   bool
	list     bool
	dir      string
	files    []string
	env      []string
	modules  []string
	collect  []string
	console  string
	accel    string
	memory   int
	cpus     int
	timeout  time.Duration
	quiet    bool
	boottime time.Duration
}

func main() {
	vm.GuestMain()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "vmtest:", err)
	}
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	var o options
	f := pflag.NewFlagSet("vmtest", pflag.ContinueOnError)
	f.SetInterspersed(false) // what follows PROGRAM belongs to it
	f.SetOutput(stderr)
	f.StringVar(&o.kernel, "kernel", "6.12", "kernel line: "+strings.Join(vm.Names(), " or "))
	f.BoolVar(&o.fetch, "fetch", false, "only make sure that the kernel is in the cache")
	f.BoolVar(&o.update, "update", false, "only fetch the newest kernel of the line")
	f.BoolVar(&o.list, "packages", false, "only print the Debian packages this needs")
	f.StringVar(&o.dir, "dir", "", "copy this directory and run in it, at the same path")
	f.StringArrayVar(&o.files, "file", nil, "copy a file or directory, HOST[:GUEST]; GUEST is the same path unless given")
	f.StringArrayVar(&o.env, "env", nil, "set a variable, NAME=VALUE, or pass one on, NAME")
	f.StringSliceVar(&o.modules, "module", nil, "load a kernel module first")
	f.StringArrayVar(&o.collect, "collect", nil, "copy a file or directory out afterwards, GUEST:HOST")
	f.StringVar(&o.console, "console", "", "keep the kernel's log in this file")
	f.StringVar(&o.accel, "accel", "", "qemu accelerator, such as kvm (default emulation)")
	f.IntVar(&o.memory, "memory", 1536, "memory in MiB")
	f.IntVar(&o.cpus, "cpus", 2, "processors")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long PROGRAM may run")
	f.DurationVar(&o.boottime, "boot-timeout", 2*time.Minute, "how long booting may take")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing about the machine unless it fails")
	f.Usage = func() { fmt.Fprint(stderr, usage+f.FlagUsages()) }
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return 0, err
	} else if err != nil {
		return exitSetup, err
	}
	if o.list {
		fmt.Fprintln(stdout, strings.Join(vm.DebianPackages, "\n"))
		return 0, nil
	}
	fetch := vm.Fetch
	if o.update {
		fetch = vm.Update
	}
	k, err := fetch(ctx, o.kernel)
	if err != nil {
		return exitSetup, err
	}
	if o.fetch || o.update {
		fmt.Fprintln(stdout, k.Package, k.Version, filepath.Dir(k.Image))
		return 0, nil
	}
	r, err := o.request(k, f.Args())
	if err != nil {
		return exitSetup, err
	}
	r.Stdout, r.Stderr = stdout, stderr
	r.Note = func(s string) { fmt.Fprintln(stderr, "vmtest:", s) }
	result, err := r.Do(ctx)
	if err != nil {
		return exitSetup, err
	}
	o.explain(stderr, result)
	return result.Command(), nil
}

// request makes the run from the flags and the program with its arguments.
func (o *options) request(k *vm.Kernel, args []string) (*vm.Run, error) {
	if len(args) == 0 {
		return nil, errors.New("no program given, see vmtest --help")
	}
	program := "/usr/local/bin/" + filepath.Base(args[0])
	r := &vm.Run{
		Kernel: k, Files: map[string]string{program: args[0]},
		Argv:   append([]string{program}, args[1:]...),
		Memory: o.memory, CPUs: o.cpus, Timeout: o.timeout, BootTimeout: o.boottime,
		Console: o.console, Accel: o.accel, Modules: o.modules, Collect: map[string]string{},
	}
	if o.dir != "" {
		dir, err := filepath.Abs(o.dir)
		if err != nil {
			return nil, err
		}
		r.Dir, r.Files[dir] = dir, dir
	}
	for _, spec := range o.files {
		host, guest, given := strings.Cut(spec, ":")
		abs, err := filepath.Abs(host)
		if err != nil {
			return nil, err
		}
		if !given {
			guest = abs
		}
		if !path.IsAbs(guest) {
			return nil, fmt.Errorf("--file %s: the guest's path must be absolute", spec)
		}
		r.Files[guest] = abs
	}
	for _, spec := range o.collect {
		guest, host, given := strings.Cut(spec, ":")
		if !given || !path.IsAbs(guest) || host == "" {
			return nil, fmt.Errorf("--collect %s: want /GUEST/PATH:HOSTPATH", spec)
		}
		r.Collect[guest] = host
	}
	for _, v := range o.env {
		if !strings.Contains(v, "=") {
			v += "=" + os.Getenv(v)
		}
		r.Env = append(r.Env, v)
	}
	return r, nil
}

// explain says on stderr how the run ended; all of it if it did not end well.
func (o *options) explain(stderr io.Writer, r vm.Result) {
	if r.Outcome == vm.Exited {
		if !o.quiet {
			fmt.Fprintf(stderr, "vmtest: kernel %s: exit code %d %s(boot %.1fs, all %.1fs)\n",
				r.Release, r.ExitCode, detail(r), r.Boot.Seconds(), r.Duration.Seconds())
		}
		return
	}
	tail := strings.Split(strings.TrimSpace(r.Console), "\n")
	tail = tail[max(0, len(tail)-80):]
	fmt.Fprintf(stderr, "vmtest: the end of the kernel's log:\n%s\nvmtest: kernel %s: %s: %s\n",
		strings.Join(tail, "\n"), o.kernel, r.Outcome, r.Detail)
}

func detail(r vm.Result) string {
	if r.Detail == "" {
		return ""
	}
	return r.Detail + " "
}
