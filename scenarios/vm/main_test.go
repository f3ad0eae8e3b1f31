// SPDX-License-Identifier: Apache-2.0

//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is its own guest: init there, and the payload of these tests.
func TestMain(m *testing.M) {
	GuestMain()
	if len(os.Args) > 1 && InGuest() != "" {
		if act, ok := acts[os.Args[1]]; ok {
			act(os.Args[2:])
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// acts are payloads that end in ways a test cannot.
var acts = map[string]func(args []string){
	"exit": func(args []string) {
		code, _ := strconv.Atoi(args[0])
		fmt.Println("on stdout")
		fmt.Fprintln(os.Stderr, "on stderr")
		os.Exit(code)
	},
	"signal": func([]string) {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	},
	"panic": func([]string) {
		// Even a payload that says it is fine right before is not believed. (Nor
		// need its last words arrive.)
		fmt.Println("PASS")
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		select {}
	},
	"poweroff": func([]string) { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) },
	"sleep": func([]string) {
		fmt.Println("sleeping")
		time.Sleep(time.Hour)
	},
	// starve takes both processors away from everyone else, init included.
	// (From Linux 6.8 on, a part is kept back for the others.)
	"starve": func([]string) {
		_ = os.WriteFile("/proc/sys/kernel/sched_rt_runtime_us", []byte("-1"), 0)
		spin := func() {
			runtime.LockOSThread()
			attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 99}
			if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
			for n := 0; ; n++ {
			}
		}
		go spin()
		spin()
	},
	"leave": func([]string) { // a file, and a child that keeps the output open
		_ = os.MkdirAll("/tmp/out/sub", 0o755)
		_ = os.WriteFile("/tmp/out/a", []byte("first"), 0o644)
		_ = os.WriteFile("/tmp/out/sub/b", bytes.Repeat([]byte("0123456789abcdef"), 1<<14), 0o600)
		cmd := exec.Command("/proc/self/exe", "sleep")
		cmd.Stdout = os.Stdout
		fmt.Println(cmd.Start())
	},
	"flood": func([]string) {
		line := []byte(strings.Repeat("x", 1023) + "\n")
		for range 1024 {
			_, _ = os.Stdout.Write(line)
		}
	},
	"where": func([]string) {
		dir, _ := os.Getwd()
		b, err := os.ReadFile("testdata/there")
		fmt.Println(dir, string(b), err, os.Getenv("GIVEN"))
	},
}

// unable skips, or fails where the continuous integration says everything must
// be there.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("WAYMARK_CI") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// kernel returns a stock kernel, or says why the test cannot have one.
func kernel(t *testing.T, name string) *Kernel {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine under qemu: run without -short")
	}
	if _, err := findQEMU(); err != nil {
		unable(t, "no machine: %v", err)
	}
	k, err := Fetch(context.Background(), name)
	if err != nil {
		unable(t, "no kernel: %v", err)
	}
	return k
}

// guestRun is a run of this test binary; what it printed is in the buffer.
func guestRun(t *testing.T, name string, argv ...string) (*Run, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	const at = "/usr/local/bin/vm.test"
	return &Run{
		Kernel: kernel(t, name), Files: map[string]string{at: self},
		Argv: append([]string{at}, argv...), Memory: 1024,
		Stdout: &out, Stderr: &out, Note: func(s string) { t.Log(s) },
	}, &out
}

func do(t *testing.T, r *Run) Result {
	t.Helper()
	res, err := r.Do(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s: %v, code %d, boot %.1fs, all %.1fs %s",
		r.Kernel.Name, res.Outcome, res.ExitCode, res.Boot.Seconds(), res.Duration.Seconds(), res.Detail)
	return res
}

// TestOutcomes tells apart every way a run can end, on each kernel.
func TestOutcomes(t *testing.T) {
	tests := []struct {
		name    string
		argv    []string
		timeout time.Duration
		want    Outcome
		code    int // of Result.ExitCode
		command int // of Result.Command
		says    string
		grace   time.Duration
		only    string // this kernel, where the other would tell nothing new
	}{
		{name: "exit 0", argv: []string{"exit", "0"}, want: Exited, says: "on stdout\n", only: "6.1"},
		{name: "exit 200", argv: []string{"exit", "200"}, want: Exited, code: 200, command: 200, says: "on stderr\n", only: "6.12"},
		{name: "killed", argv: []string{"signal"}, want: Exited, code: 137, command: 137, only: "6.12"},
		{name: "go test timeout", argv: []string{"-test.run=^TestSleeps$", "-test.timeout=500ms"}, want: Exited, code: 2, command: 2, says: "panic: test timed out after 500ms", only: "6.1"},
		{name: "panic", argv: []string{"panic"}, want: Panicked, code: -1, command: 125},
		{name: "host timeout", argv: []string{"sleep"}, timeout: 500 * time.Millisecond, want: TimedOut, code: -1, command: 124, says: "SIGQUIT: quit", only: "6.1"},
		{name: "reset", argv: []string{"poweroff"}, want: Lost, code: -1, command: 125, only: "6.12"},
		{name: "hang", argv: []string{"starve"}, timeout: time.Second, grace: 4 * time.Second, want: Hung, code: -1, command: 125, only: "6.1"},
	}
	for _, k := range Names() {
		for _, tt := range tests {
			if tt.only != "" && tt.only != k {
				continue
			}
			t.Run(k+" "+tt.name, func(t *testing.T) {
				r, out := guestRun(t, k, tt.argv...)
				r.Timeout, r.StopGrace = tt.timeout, tt.grace
				res := do(t, r)
				if res.Outcome != tt.want || res.ExitCode != tt.code || res.Command() != tt.command {
					t.Errorf("got %v (%s), code %d, command %d; want %v, %d, %d\n%s\n%s", res.Outcome, res.Detail,
						res.ExitCode, res.Command(), tt.want, tt.code, tt.command, out, res.Console)
				}
				if !strings.Contains(out.String(), tt.says) {
					t.Errorf("output lacks %q:\n%s", tt.says, out)
				}
				if !strings.HasPrefix(res.Release, k+".") {
					t.Errorf("release is %q, not a %s", res.Release, k)
				}
			})
		}
	}
}

// TestSleeps is the payload of "go test timeout"; there is nothing to wait for.
func TestSleeps(t *testing.T) {
	if InGuest() == "" {
		return
	}
	time.Sleep(time.Minute)
}

func TestFilesInAndOut(t *testing.T) {
	r, out := guestRun(t, "6.12", "where")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "testdata", "there"), []byte("was here"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Files[dir], r.Dir, r.Env = dir, dir, []string{"GIVEN=yes"}
	do(t, r)
	if want := dir + " was here <nil> yes\n"; out.String() != want {
		t.Errorf("payload saw %q, want %q", out, want)
	}

	r, out = guestRun(t, "6.12", "leave")
	r.Collect = map[string]string{"/tmp/out": filepath.Join(dir, "got"), "/tmp/none": filepath.Join(dir, "none")}
	notes := ""
	r.Note = func(s string) { notes += s + "\n" }
	if res := do(t, r); res.Outcome != Exited || res.ExitCode != 0 {
		t.Fatalf("%v %d\n%s", res.Outcome, res.ExitCode, out)
	}
	for name, want := range map[string]string{"a": "first", "sub/b": strings.Repeat("0123456789abcdef", 1<<14)} {
		if got, err := os.ReadFile(filepath.Join(dir, "got", name)); err != nil || string(got) != want {
			t.Errorf("collected %s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	if !strings.Contains(notes, "/tmp/none") {
		t.Errorf("nothing said about the missing file: %q", notes)
	}
}

func TestMuchOutput(t *testing.T) {
	r, out := guestRun(t, "6.12", "flood")
	res := do(t, r)
	t.Logf("1 MiB of output in %.2fs", (res.Duration - res.Boot).Seconds())
	if out.Len() != 1<<20 || strings.Trim(out.String(), "x\n") != "" {
		t.Errorf("got %d bytes, want %d, all of them x", out.Len(), 1<<20)
	}
}

func TestCancel(t *testing.T) {
	r, _ := guestRun(t, "6.12", "sleep")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.Stdout = writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	if _, err := r.Do(ctx); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("got %v, want canceled", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestNothingToRun(t *testing.T) {
	k := &Kernel{Name: "6.12", Image: "/nonexistent", Modules: "/nonexistent"}
	for _, r := range []*Run{{}, {Kernel: k}, {Kernel: k, Argv: []string{"relative"}}} {
		if _, err := r.Do(context.Background()); err == nil {
			t.Errorf("%+v: no error", r)
		}
	}
	r, _ := guestRun(t, "6.12", "exit", "0")
	r.Argv[0] = "/not/there"
	if _, err := r.Do(context.Background()); err == nil || !strings.Contains(err.Error(), "/not/there") {
		t.Errorf("missing program: got %v", err)
	}
}
