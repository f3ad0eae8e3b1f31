// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// The processes of a world: started inside its namespaces, written down so that
// another waymark can end them later, and ended by pidfd so that never a
// stranger is hit whose pid was reused.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// markEnv is set in the environment of every process of a lab, to the lab's
// name. It finds the process that was started just before a crash, when there
// was no time to write it down.
const markEnv = "WAYMARK_LAB"

// killTimeout is how long a killed process may take to end. One that is stuck
// in the kernel longer than this is reported, not waited for.
const killTimeout = 5 * time.Second

// Process is one process of a world.
type Process struct {
	Role string `json:"role"` // "balancer", "target-1"
	Node string `json:"node"` // short name of the namespace it was started in
	PID  int    `json:"pid"`
	// Start is when it started, in clock ticks since boot (field 22 of
	// /proc/PID/stat, proc_pid_stat(5)): with the pid it names one process.
	Start uint64 `json:"start"`
}

// child is a process started by this very program.
type child struct {
	Process
	exited chan struct{} // closed when it has ended and was waited for
	err    error         // how it ended; read after exited
	log    string
}

// spawn starts argv in node, in a session of its own and with its output in a
// log file, so that it outlives this program.
func (w *World) spawn(role, node string, extra []*os.File, argv ...string) (*child, error) {
	logPath := filepath.Join(w.dir(), role+".log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), markEnv+"="+w.lab.name)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = extra
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := inside(w.nodes[node].ns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	c := &child{Process: Process{Role: role, Node: node, PID: cmd.Process.Pid}, exited: make(chan struct{}), log: logPath}
	c.Start, err = startTime(c.PID)
	if err == nil {
		err = w.recordProcess(c.Process)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	go func() {
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// failure describes a child that ended although it should serve, with the last
// line it wrote.
func (c *child) failure() error {
	out, _ := os.ReadFile(c.log)
	return fmt.Errorf("%s ended (%v): %s", c.Role, c.err, lastLine(out))
}

// run runs a command in node to its end.
func (w *World) run(ctx context.Context, node string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), markEnv+"="+w.lab.name)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := inside(w.nodes[node].ns, cmd.Run)
	if err != nil {
		return nil, fmt.Errorf("`%s` in %s: %w: %s", strings.Join(argv, " "), node, err, lastLine(append(stdout.Bytes(), stderr.Bytes()...)))
	}
	return stdout.Bytes(), nil
}

func lastLine(out []byte) string {
	out = bytes.TrimSpace(out)
	if len(out) == 0 {
		return "it said nothing"
	}
	return string(out[bytes.LastIndexByte(out, '\n')+1:])
}

// kill ends p and waits until it has ended; a process that is gone, or whose
// pid belongs to another one now, is no error.
func (p Process) kill() error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end %s (pid %d): %w", p.Role, p.PID, err)
	}
	defer unix.Close(fd)
	// The pidfd is fixed to one process now: if that one started when p did,
	// it is p, whatever happens to the pid later.
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end %s (pid %d): %w", p.Role, p.PID, err)
	}
	return wrap(fmt.Sprintf("end %s (pid %d)", p.Role, p.PID), awaitExit(fd))
}

// signal sends a signal that does not end p; a process that is gone is no error.
func (p Process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal %s (pid %d): %w", p.Role, p.PID, err)
	}
	defer unix.Close(fd)
	if start, err := startTime(p.PID); err != nil || start != p.Start {
		return nil // the pid is another's now
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s (pid %d): %w", p.Role, p.PID, err)
	}
	return nil
}

// awaitExit waits until a process has ended: its pidfd becomes readable then.
func awaitExit(pidfd int) error {
	deadline := time.Now().Add(killTimeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return errors.New("it does not end; look at /proc/PID/stack")
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// running says whether p still runs; a zombie does not.
func (p Process) running() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
	if err != nil {
		return false
	}
	state, start, err := parseStat(stat)
	return err == nil && start == p.Start && state != 'Z' && state != 'X'
}

func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, start, err := parseStat(stat)
	return start, err
}

// parseStat reads the state (field 3) and the start time in clock ticks since
// boot (field 22) from /proc/PID/stat. The command name before them is in
// parentheses and may itself contain spaces and parentheses.
func parseStat(stat []byte) (state byte, start uint64, err error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, 0, errors.New("process status without a command name")
	}
	fields := bytes.Fields(stat[end+1:])
	const startField = 22 - 3 // the first field after the name is number 3
	if len(fields) <= startField {
		return 0, 0, fmt.Errorf("process status has %d fields after the name, want at least %d", len(fields), startField+1)
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("start time of a process: %w", err)
	}
	return fields[0][0], start, nil
}

// marked finds the processes that carry the lab's mark in their environment and
// live in one of its namespaces. Both must hold: the environment is inherited
// by whatever is started from a shell, and a shell in the namespace is a guest.
func (l *lab) marked() []Process {
	spaces := map[uint64]string{}
	for _, n := range l.plan.nodes {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(NamespaceDir, l.namespace(n)), &st) == nil {
			spaces[st.Ino] = n
		}
	}
	if len(spaces) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
			continue
		}
		node, ours := spaces[st.Ino]
		if !ours {
			continue
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !hasEnv(env, markEnv+"="+l.name) {
			continue
		}
		start, err := startTime(pid)
		if err == nil {
			found = append(found, Process{Role: "marked", Node: node, PID: pid, Start: start})
		}
	}
	return found
}

// hasEnv looks for one NAME=VALUE in the NUL separated environment env.
func hasEnv(env []byte, entry string) bool {
	for e := range bytes.SplitSeq(env, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}
