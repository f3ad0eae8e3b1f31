// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"waymark/scenarios/vm"
)

// The test binary is init and payload in its guests.
func TestMain(m *testing.M) {
	vm.GuestMain()
	if vm.InGuest() != "" && len(os.Args) > 1 {
		payload(os.Args[1])
	}
	os.Exit(m.Run())
}

func payload(what string) {
	switch what {
	case "panic":
		_ = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
		select {}
	case "exit7":
		dir, _ := os.Getwd()
		here, err := os.ReadFile("testdata/x")
		there, err2 := os.ReadFile("/there")
		_, err3 := os.Stat("/sys/module/br_netfilter")
		fmt.Println(dir, string(here), err, string(there), err2, err3, os.Getenv("GIVEN"), os.Getenv("PASSED"))
		_ = os.WriteFile("/tmp/left", []byte("left"), 0o644)
		os.Exit(7)
	}
}

func vmtest(args ...string) (code int, stdout, stderr string) {
	var out, complaint bytes.Buffer
	code, err := run(context.Background(), args, &out, &complaint)
	if err != nil {
		fmt.Fprintln(&complaint, err)
	}
	return code, out.String(), complaint.String()
}

func TestUsage(t *testing.T) {
	t.Setenv("WAYMARK_CACHE", t.TempDir())
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"--help", 0, "126 if nothing could be run"},
		{"--packages", 0, "qemu-system-x86"},
		{"--nonsense", exitSetup, "nonsense"},
		{"--kernel 5.4 x", exitSetup, `no kernel "5.4"`},
	} {
		code, stdout, stderr := vmtest(strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(stdout+stderr, tt.says) {
			t.Errorf("%s: code %d, want %d; no %q in\n%s%s", tt.args, code, tt.code, tt.says, stdout, stderr)
		}
	}
}

func TestRequest(t *testing.T) {
	k := &vm.Kernel{Name: "6.12"}
	for _, tt := range []struct {
		o    options
		args []string
		says string
	}{
		{options{}, nil, "no program"},
		{options{files: []string{"a:b"}}, []string{"x"}, "--file a:b"},
		{options{collect: []string{"/a"}}, []string{"x"}, "--collect /a"},
		{options{collect: []string{"a:b"}}, []string{"x"}, "--collect a:b"},
	} {
		if _, err := tt.o.request(k, tt.args); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v %v: got %v, want %q", tt.o, tt.args, err, tt.says)
		}
	}
}

func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("boots machines under qemu: run without -short")
	}
	unable := t.Skipf
	if os.Getenv("WAYMARK_CI") == "1" {
		unable = t.Fatalf
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		unable("no machine: %v", err)
	}
	if _, err := vm.Fetch(t.Context(), "6.1"); err != nil {
		unable("no kernel: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "p", "testdata"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"p/testdata/x", "there"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PASSED", "on")
	left := filepath.Join(dir, "left")
	code, stdout, stderr := vmtest("--kernel", "6.1", "--dir", filepath.Join(dir, "p"), "--file", filepath.Join(dir, "there")+":/there",
		"--env", "GIVEN=yes", "--env", "PASSED", "--module", "br_netfilter", "--collect", "/tmp/left:"+left, self, "exit7")
	if want := filepath.Join(dir, "p") + " p/testdata/x <nil> there <nil> <nil> yes on\n"; stdout != want || code != 7 {
		t.Errorf("code %d, stdout %q; want 7, %q; stderr:\n%s", code, stdout, want, stderr)
	}
	if !strings.Contains(stderr, "exit code 7") {
		t.Errorf("stderr does not say how it ended: %s", stderr)
	}
	if b, err := os.ReadFile(left); err != nil || string(b) != "left" {
		t.Errorf("collected %q, %v", b, err)
	}

	console := filepath.Join(dir, "console")
	code, _, stderr = vmtest("--kernel", "6.1", "--console", console, self, "panic")
	if code != 125 || !strings.Contains(stderr, "sysrq triggered crash") || !strings.Contains(stderr, "Call Trace") {
		t.Errorf("panic: code %d, want 125 and the kernel's log; stderr:\n%s", code, stderr)
	}
	if b, err := os.ReadFile(console); err != nil || !bytes.Contains(b, []byte("Kernel panic")) {
		t.Errorf("console log has no panic: %v", err)
	}
}
