// SPDX-License-Identifier: Apache-2.0

//go:build linux

// The host's side of a running machine: start qemu, follow the frames, decide
// how it ended.

package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// kernelArgs: a panic or an oops ends the machine; the log goes to the first
// serial port, and little of it, for a serial port is slow. The crypto self
// tests alone take a tenth of the boot. The emulated TSC is the host's and good
// as a clock, which the kernel cannot know: the HPET it would take instead costs
// microseconds to read, and bpf_ktime_get_boot_ns reads it for each record. A
// processor this slow has more packets waiting than the backlog has room for
// (netdev_max_backlog is 1,000 otherwise): a thousand connections at once would
// lose some there.
const kernelArgs = "console=ttyS0 panic=-1 oops=panic mitigations=off cryptomgr.notests quiet loglevel=4 8250.nr_uarts=2 tsc=reliable" +
	" sysctl.net.core.netdev_max_backlog=20000"

func findQEMU() (string, error) {
	q, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", fmt.Errorf("running stock kernels needs qemu: apt-get install %s: %w", strings.Join(DebianPackages, " "), err)
	}
	return q, nil
}

type machine struct {
	run                   *Run
	qemu, initrd, console string

	files  *collector
	hello  bool // init is up
	start  time.Time
	result Result
}

// emulation is qemu's accelerator unless told otherwise. One thread takes turns
// at all processors: with a thread for each, one of them now and then runs code
// that was translated before another patched it, meets the breakpoint that was
// there meanwhile, and the kernel panics ("Oops: int3", one boot of a hundred,
// and later while static keys are switched) or, where a kprobe uses the place too,
// tries again for ever (soft lockups at consume_skb, although the bytes there are
// a nop again: one of twenty runs of TestOverheadIPVS). What mostly waits hardly
// notices.
const emulation = "tcg,thread=single"

func (m *machine) args() []string {
	return []string{
		"-machine", "pc", "-cpu", "max", "-accel", or(m.run.Accel, emulation),
		"-smp", strconv.Itoa(or(m.run.CPUs, 2)), "-m", strconv.Itoa(or(m.run.Memory, 1536)),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.run.Kernel.Image, "-initrd", m.initrd, "-append", kernelArgs,
		"-serial", "file:" + m.console,
		"-chardev", "stdio,id=wire,signal=off", "-serial", "chardev:wire",
	}
}

func or[T comparable](v, instead T) T {
	var zero T
	if v == zero {
		return instead
	}
	return v
}

type frame struct {
	kind frameType
	data []byte
	err  error
}

func (m *machine) do(ctx context.Context) (Result, error) {
	// qemu must not outlive this process; that signal is tied to the thread
	// that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	cmd := exec.Command(m.qemu, m.args()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return Result{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return Result{}, err
	}
	m.start = time.Now()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("start qemu: %w", err)
	}
	m.files = &collector{run: m.run}
	defer m.files.close()

	frames := make(chan frame)
	done := make(chan struct{})
	go readFrames(stdout, frames, done)
	err = m.follow(ctx, frames, &frameWriter{w: stdin})
	close(done)
	vanished := m.result.Outcome == 0
	if !vanished || err != nil {
		_ = cmd.Process.Kill() // its own child: all that matters has been said
	}
	waitErr := cmd.Wait()
	if err != nil {
		return Result{}, err
	}
	m.result.Duration = time.Since(m.start)
	m.result.Console = fileTail(m.console, 16<<10)
	if vanished {
		m.explainEnd(waitErr, complaint.String())
	}
	return m.result, nil
}

func readFrames(r io.Reader, frames chan<- frame, done <-chan struct{}) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		kind, data, err := readFrame(br)
		select {
		case frames <- frame{kind, data, err}:
		case <-done:
			return
		}
		if err != nil {
			return
		}
	}
}

// follow handles frames until the guest has reported, its stream ends or the
// time is up. It leaves the outcome open if the stream just ended.
func (m *machine) follow(ctx context.Context, frames <-chan frame, guest *frameWriter) error {
	m.result.ExitCode = -1
	deadline := time.NewTimer(or(m.run.BootTimeout, 2*time.Minute))
	defer deadline.Stop()
	running, stopping, answered := false, false, false
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("run in the guest: %w", context.Cause(ctx))
		case <-deadline.C:
			switch {
			case running && !stopping:
				// A live guest now makes the payload print its stacks.
				stopping = true
				deadline.Reset(or(m.run.StopGrace, 15*time.Second))
				go func() { _ = guest.send(frameStop, nil) }() // may block if the guest is dead
				continue
			case !running:
				m.end(Hung, "the payload did not start within %v of power on", or(m.run.BootTimeout, 2*time.Minute))
			case answered:
				m.end(TimedOut, "still running after %v", m.timeout())
			default:
				m.end(Hung, "still running after %v, and the guest did not answer for %v", m.timeout(), or(m.run.StopGrace, 15*time.Second))
			}
			return nil
		case f := <-frames:
			if errors.Is(f.err, io.EOF) || errors.Is(f.err, io.ErrUnexpectedEOF) {
				return nil // the machine is gone
			}
			if f.err != nil {
				m.end(Lost, "%v", f.err)
				return nil
			}
			switch f.kind {
			case frameStarted:
				running = true
				deadline.Reset(m.timeout())
			case frameStopping:
				answered = true
			case frameExit:
				return m.report(f.data, stopping)
			default:
				if err := m.handle(f); err != nil {
					return err
				}
			}
		}
	}
}

func (m *machine) timeout() time.Duration { return or(m.run.Timeout, 10*time.Minute) }

func (m *machine) end(o Outcome, format string, args ...any) {
	m.result.Outcome = o
	m.result.Detail = fmt.Sprintf(format, args...)
}

// handle passes on what the guest sends while it runs.
func (m *machine) handle(f frame) error {
	switch f.kind {
	case frameHello:
		m.hello = true
		m.result.Boot = time.Since(m.start)
		m.result.Release = string(f.data)
	case frameStdout:
		return writeOut(m.run.Stdout, f.data)
	case frameStderr:
		return writeOut(m.run.Stderr, f.data)
	case frameNote:
		m.run.note("guest: %s", f.data)
	case frameFile, frameFileData:
		return m.files.frame(f.kind, f.data)
	}
	return nil
}

func writeOut(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("pass on the guest's output: %w", err)
	}
	return nil
}

// report takes the guest's last word.
func (m *machine) report(data []byte, stopped bool) error {
	var x exitReport
	if err := json.Unmarshal(data, &x); err != nil {
		return fmt.Errorf("guest's exit report: %w", err)
	}
	switch {
	case x.Error != "":
		return fmt.Errorf("in the guest: %s", x.Error)
	case stopped:
		m.end(TimedOut, "still running after %v", m.timeout())
	case x.Signal != "":
		m.end(Exited, "ended by signal: %s", x.Signal)
		m.result.ExitCode = x.Code
	default:
		m.end(Exited, "")
		m.result.ExitCode = x.Code
	}
	return m.files.close()
}

// explainEnd finds out why the machine ended without a report. qemu's exit
// status says little: a panic ends it with 0.
func (m *machine) explainEnd(waitErr error, complaint string) {
	complaint = strings.TrimSpace(complaint)
	panicLine := ""
	for line := range strings.Lines(m.result.Console) {
		if _, what, ok := strings.Cut(line, "Kernel panic - not syncing: "); ok {
			panicLine = strings.TrimSpace(what)
			break
		}
	}
	switch {
	case panicLine != "":
		m.end(Panicked, "kernel panic: %s", panicLine)
	case waitErr != nil:
		m.end(QEMUFailed, "qemu: %v: %s", waitErr, complaint)
	case m.hello:
		m.end(Lost, "the machine was switched off or reset before the payload ended")
	default:
		m.end(Lost, "the machine ended before init was up %s", complaint)
	}
}

// fileTail reads up to n bytes of the end of a file, from a line's beginning.
func fileTail(file string, n int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	at := max(0, st.Size()-n)
	b, err := io.ReadAll(io.NewSectionReader(f, at, n))
	if err != nil {
		return ""
	}
	if i := bytes.IndexByte(b, '\n'); at > 0 && i >= 0 {
		b = b[i+1:]
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}
