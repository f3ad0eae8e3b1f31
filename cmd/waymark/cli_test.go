// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBadInputIsOneLineAndAnExitCode: whatever is wrong is said in one line,
// on stderr, and never as a panic.
func TestBadInputIsOneLineAndAnExitCode(t *testing.T) {
	const stored = "meridio/no-listener"
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	empty := filepath.Join(dir, "empty")
	for file, content := range map[string]string{text: "this is no recording\n", empty: ""} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "waymark help"},
		{[]string{"frobnicate"}, exitUsage, `unknown command "frobnicate"`},
		{[]string{"trace", "--nope"}, exitUsage, "unknown flag"},
		{[]string{"trace", "tcp port"}, exitUsage, "at the end of"},
		{[]string{"trace", "tcp[13"}, exitUsage, "tcp[13"},
		{[]string{"trace", "--netns", "no-such-namespace", "tcp"}, exitUsage, "no-such-namespace"},
		{[]string{"trace", "--netns", "999999999", "tcp"}, exitUsage, "999999999"},
		{[]string{"trace", "-o", "xml"}, exitUsage, "text or json"},
		{[]string{"trace", "--mark", "blue"}, exitUsage, "0x13b8"},
		{[]string{"trace", "--for", "-1s"}, exitUsage, "positive"},
		{[]string{"trace", "-s", "3"}, exitUsage, "14 to 16384"},
		{[]string{"trace", "-i", "["}, exitUsage, "pattern"},
		{[]string{"trace", "--hooks", "everything"}, exitUsage, "device, queue, ipvs, netfilter, nat, bridge, socket, connect, drop, free"},
		{[]string{"trace", "--budget", "2"}, exitUsage, "such as 2%"},
		{[]string{"drops", "--budget", "0%"}, exitUsage, "above 0%"},
		{[]string{"record", "-w", text, "--budget", "101%"}, exitUsage, "up to 100%"},
		{[]string{"trace", "--budget", "NaN%"}, exitUsage, "such as 2%"},
		{[]string{"trace", "--pod", "x"}, exitUsage, "NAMESPACE/NAME"},
		{[]string{"drops", "-c", "-1"}, exitUsage, "positive"},
		{[]string{"record", "tcp"}, exitUsage, "-w FILE"},
		{[]string{"record", "-w", text, "--rotate", "10X"}, exitUsage, "such as 100MB"},
		{[]string{"record", "-w", text, "--rotate", "1K"}, exitUsage, "64K at least"},
		{[]string{"record", "-w", text, "--keep", "3"}, exitUsage, "give both"},
		{[]string{"record", "-w", text, "--rotate", "1M", "--keep", "-1"}, exitUsage, "positive"},
		{[]string{"record", "-w", dir, "--rotate", "1M"}, exitUsage, "leave out --rotate"},
		{[]string{"record", "-w", "/no/such/dir/x.pcapng", "--rotate", "1M"}, exitUsage, "no such file"},
		{[]string{"record", "-w", text, "--payload", "some"}, exitUsage, "off, headers or full"},
		{[]string{"record", "-w", text, "--anonymize", "--payload", "full"}, exitUsage, "leave out --payload full"},
		{[]string{"replay"}, exitUsage, "waymark replay FILE"},
		{[]string{"replay", "/no/such/file"}, exitUsage, "no such file"},
		{[]string{"replay", text}, exitUsage, "not a pcapng file"},
		{[]string{"replay", empty}, exitUsage, "empty"},
		{[]string{"replay", dir}, exitUsage, "directory"},
		{[]string{"replay", "../../decoder/testdata/foreign/dumpcap.pcapng"}, exitUsage, "written by Dumpcap"},
		{[]string{"replay", "../../decoder/testdata/foreign/tcpdump.pcap"}, exitUsage, "classic pcap"},
		{[]string{"export", "../../decoder/testdata/foreign/dumpcap.pcapng"}, exitUsage, "written by Dumpcap"},
		{[]string{"replay", stored, text}, exitUsage, "text: "},
		{[]string{"replay", stored, "/no/such/file"}, exitUsage, "no such file"},
		{[]string{"replay", "no-listner"}, exitUsage, "no scenario has that name (close: meridio/no-listener); `waymark replay --list` lists them"},
		{[]string{"replay", "vip.pcapng"}, exitUsage, "open vip.pcapng: no such file or directory\n"},
		{[]string{"replay", "--list", stored}, exitUsage, "leave out everything else but -o"},
		{[]string{"replay", "--list", "-o", "xml"}, exitUsage, "text or json"},
		{[]string{"replay", "--filter", "tcp port", stored}, exitUsage, "at the end of"},
		{[]string{"replay", "--filter", "tcp any 10.0.0.1:http2", stored}, exitUsage, "is not a port"},
		{[]string{"replay", "--only", "dropped,lost", stored}, exitUsage, "choose from dropped, delivered, forwarded, consumed, open, incomplete"},
		{[]string{"replay", "--speed", "fast", stored}, exitUsage, "such as 1x, or max"},
		{[]string{"replay", "--speed", "1x", "--flows", stored}, exitUsage, "leave out --speed or --flows"},
		{[]string{"replay", "--expect", "/no/such/file", stored}, exitUsage, "no such file"},
		{[]string{"replay", "--expect", dir, stored}, exitUsage, "directory"},
		{[]string{"export", "--format", "gif", text}, exitUsage, "pcapng, pcap or json"},
		{[]string{"export", "--html", filepath.Join(dir, "x.html"), "--dir", dir, text}, exitUsage, "leave out --format, --dir"},
		{[]string{"export", "--html", text, text}, exitUsage, "the recording itself"},
		{[]string{"export", "--html", filepath.Join(dir, "x.html"), text}, exitUsage, "not a pcapng file"},
		{[]string{"export", "--html", filepath.Join(dir, "no", "x.html"), stored}, exitUsage, "write the page"},
		{[]string{"lab", "up", "atlantis"}, exitUsage, "meridio"},
		{[]string{"completion", "tcsh"}, exitUsage, "bash or zsh"},
		{[]string{"doctor", "now"}, exitUsage, "unexpected argument"},
	} {
		stdout, stderr, code := run0(t, tt.args...)
		if code != tt.code || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.says) || stdout != "" {
			t.Errorf("waymark %s: exit %d, stdout %q, stderr %q; want exit %d and one line with %q",
				strings.Join(tt.args, " "), code, stdout, stderr, tt.code, tt.says)
		}
	}
}

// TestFailedStartKeepsTheOldRecording: what cannot trace overwrites nothing.
func TestFailedStartKeepsTheOldRecording(t *testing.T) {
	file := filepath.Join(t.TempDir(), "old.pcapng")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, code := run0(t, "record", "-w", file, "--netns", "no-such-namespace", "tcp"); code == exitOK {
		t.Error("a namespace that is not there was traced")
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the old recording is %q now, %v", content, err)
	}
}

// TestHelpFitsOneScreen: and shows three examples, for every command of its own.
func TestHelpFitsOneScreen(t *testing.T) {
	for _, c := range commands() {
		if c.help == "" {
			continue
		}
		out, stderr, code := run0(t, c.name, "--help")
		examples := strings.Count(out[strings.Index(out, "examples:")+1:], "\n  ")
		if code != 0 || stderr != "" || strings.Count(out, "\n") > 40 || examples < 3 {
			t.Errorf("waymark %s --help: exit %d, %d lines, %d examples", c.name, code, strings.Count(out, "\n"), examples)
		}
	}
}

// TestShellsTakeTheCompletion: bash can read it, where there is a bash.
func TestShellsTakeTheCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Log("no bash here")
		return
	}
	script, _, _ := run0(t, "completion", "bash")
	cmd := exec.Command(bash, "-c", script+"COMP_WORDS=(waymark tr); COMP_CWORD=1; _waymark; echo ${COMPREPLY[@]}")
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "trace" {
		t.Errorf("completing tr gives %q, %v", out, err)
	}
}

// TestWithoutRights: what needs root says so with exit code 3; replay does not.
func TestWithoutRights(t *testing.T) {
	needRoot(t) // to become somebody else
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	// A copy where that somebody may reach it.
	dir, err := os.MkdirTemp("", "waymark-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin := filepath.Join(dir, "waymark")
	content, err := os.ReadFile(waymarkBin)
	if err != nil {
		t.Fatal(err)
	}
	recording, err := os.ReadFile(noListener)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.pcapng"), recording, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"trace", "tcp"}, exitUnsupported, "root"},
		{[]string{"drops"}, exitUnsupported, "root"},
		{[]string{"lab", "up", "meridio"}, exitUnsupported, "root"},
		{[]string{"doctor"}, exitUnsupported, "no hook can be attached"},
		{[]string{"replay", "x.pcapng"}, exitOK, ""},
		{[]string{"replay", "meridio/no-listener"}, exitOK, ""},
	} {
		cmd := exec.Command(bin, tt.args...)
		cmd.Dir, cmd.SysProcAttr = dir, nobody
		var stderr strings.Builder
		cmd.Stderr = &stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("waymark %s as nobody: exit %d, %q; want exit %d with %q", strings.Join(tt.args, " "), code, stderr.String(), tt.code, tt.says)
		}
	}
}

// TestWithoutBTF: a kernel without BTF is told as such. The test hides the
// kernel's in a mount namespace of its own.
func TestWithoutBTF(t *testing.T) {
	needRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "trace", "tcp")
	cmd.Env = append(os.Environ(), "WAYMARK_HIDE_BTF="+waymarkBin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitUnsupported || !strings.Contains(string(out), "BTF") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("without BTF: exit %d, %q; want exit 3 and a line about BTF", code, out)
	}
}

// hideBTF covers /sys/kernel/btf, and /boot and /lib/modules where BTF is
// looked for as well, and becomes the command.
func hideBTF(bin string) error {
	for _, dir := range []string{"/sys/kernel/btf", "/boot", "/lib/modules"} {
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
	}
	return unix.Exec(bin, append([]string{bin}, os.Args[1:]...), os.Environ())
}
