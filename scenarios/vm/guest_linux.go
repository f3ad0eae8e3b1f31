// SPDX-License-Identifier: Apache-2.0

// The guest's init: sets the machine up, runs the payload, reports.

package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// quitGrace is what the payload gets between SIGQUIT, at which a Go program
// prints its goroutines, and SIGKILL.
const quitGrace = 5 * time.Second

// GuestMain must be the first call in main (or TestMain) of a program that
// calls [Run.Do]: in the guest that program is init and modprobe, and GuestMain
// does not return. Everywhere else it returns at once.
func GuestMain() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		if _, err := os.Stat(guestIndexPath); err == nil {
			os.Exit(modprobeMain(os.Args[1:]))
		}
	}
	if os.Getpid() != 1 || os.Args[0] != "/init" {
		return
	}
	config, err := os.ReadFile(guestConfigPath)
	if errors.Is(err, fs.ErrNotExist) {
		return // process 1 of some container
	}
	// An error before there is a wire ends process 1, hence the kernel, with
	// the message on its console.
	if err == nil {
		err = guestInit(config)
	}
	fmt.Fprintln(os.Stderr, "waymark guest init:", err)
	os.Exit(1)
}

// guestInit returns only if the host cannot be told.
func guestInit(config []byte) error {
	var c guestConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	tty, err := openWire("/dev/ttyS1")
	if err != nil {
		return err
	}
	g := &guest{config: c, wire: &frameWriter{w: tty}, stop: make(chan struct{})}
	go g.listen(tty)
	report, err := g.run()
	if err != nil {
		report = exitReport{Code: -1, Error: err.Error()}
	}
	if err := g.wire.sendJSON(frameExit, report); err != nil {
		return err
	}
	// The host ends the machine now; if it is gone, the machine ends itself.
	time.Sleep(10 * time.Second)
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// openWire opens the serial port for bytes as they are.
func openWire(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set %s raw: %w", name, err)
	}
	return f, nil
}

type guest struct {
	config guestConfig
	wire   *frameWriter
	stop   chan struct{} // closed when the host says that the time is up
}

// listen waits for the host's only word.
func (g *guest) listen(tty io.Reader) {
	for {
		kind, _, err := readFrame(tty)
		if err != nil {
			return
		}
		if kind == frameStop {
			_ = g.wire.send(frameStopping, nil)
			close(g.stop)
			return
		}
	}
}

func (g *guest) note(format string, args ...any) {
	_ = g.wire.send(frameNote, fmt.Appendf(nil, format, args...))
}

func (g *guest) run() (exitReport, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return exitReport{}, err
	}
	if err := g.wire.send(frameHello, []byte(unix.ByteSliceToString(uts.Release[:]))); err != nil {
		return exitReport{}, err
	}
	if err := prepare(); err != nil {
		return exitReport{}, err
	}
	for _, name := range g.config.Modules {
		if err := loadModule(name, ""); err != nil {
			return exitReport{}, err
		}
	}
	report, err := g.payload()
	if err != nil {
		return exitReport{}, err
	}
	for i, path := range g.config.Collect {
		if err := g.collect(i, path); err != nil {
			g.note("collect %s: %v", path, err)
		}
	}
	return report, nil
}

// payload runs the program, passing on what it prints, until it has ended.
func (g *guest) payload() (exitReport, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return exitReport{}, err
	}
	defer null.Close()
	var pumps sync.WaitGroup
	outR, outW, err := g.pump(&pumps, frameStdout)
	if err != nil {
		return exitReport{}, err
	}
	errR, errW, err := g.pump(&pumps, frameStderr)
	if err != nil {
		return exitReport{}, err
	}
	pid, err := syscall.ForkExec(g.config.Argv[0], g.config.Argv, &syscall.ProcAttr{
		Dir: g.config.Dir, Env: g.config.Env,
		Files: []uintptr{null.Fd(), outW.Fd(), errW.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return exitReport{}, fmt.Errorf("start %s in %s: %w", g.config.Argv[0], g.config.Dir, err)
	}
	outW.Close()
	errW.Close()
	if err := g.wire.send(frameStarted, nil); err != nil {
		return exitReport{}, err
	}
	ended := make(chan struct{})
	go g.stopPayload(pid, ended)
	status, err := reapUntil(pid)
	close(ended)
	if err != nil {
		return exitReport{}, err
	}
	// What the payload left behind may hold its output open.
	last := time.Now().Add(2 * time.Second)
	_ = outR.SetReadDeadline(last)
	_ = errR.SetReadDeadline(last)
	pumps.Wait()
	if status.Signaled() {
		return exitReport{Code: 128 + int(status.Signal()), Signal: status.Signal().String()}, nil
	}
	return exitReport{Code: status.ExitStatus()}, nil
}

// pump makes a pipe whose reading end is sent to the host as frames.
func (g *guest) pump(wg *sync.WaitGroup, kind frameType) (r, w *os.File, err error) {
	r, w, err = os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	wg.Go(func() {
		b := make([]byte, frameChunk)
		for {
			n, err := r.Read(b)
			if n > 0 {
				_ = g.wire.send(kind, b[:n])
			}
			if err != nil {
				return
			}
		}
	})
	return r, w, nil
}

// stopPayload ends the payload when the host's time is up, and makes payload
// and kernel say first what they were waiting for.
func (g *guest) stopPayload(pid int, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-g.stop:
	}
	_ = unix.Kill(-pid, unix.SIGQUIT)
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("7"), 0)
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0) // blocked tasks
	select {
	case <-ended:
	case <-time.After(quitGrace):
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
}

// reapUntil collects the dead, as process 1 must, until pid is among them.
func reapUntil(pid int) (syscall.WaitStatus, error) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the payload: %w", err)
		case got == pid && (status.Exited() || status.Signaled()):
			return status, nil
		}
	}
}

// collect sends a file, or every regular file below a directory.
func (g *guest) collect(index int, root string) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		h := fileHead{Index: index, Rel: rel, Size: st.Size(), Perm: uint32(st.Mode().Perm())}
		if err := g.wire.sendJSON(frameFile, h); err != nil {
			return err
		}
		b := make([]byte, frameChunk)
		for r := io.LimitReader(f, st.Size()); ; {
			n, err := r.Read(b)
			if n > 0 {
				if err := g.wire.send(frameFileData, b[:n]); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

// modprobeMain is /sbin/modprobe, which the kernel runs as
// "modprobe -q -- NAME" when something that it lacks is used. Tests may run it
// too: modprobe NAME [PARAMETER=VALUE]...
func modprobeMain(args []string) int {
	quiet := false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		quiet = quiet || args[0] == "-q"
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: modprobe [-q] [--] NAME [PARAMETER=VALUE]...")
		return 2
	}
	if err := loadModule(args[0], strings.Join(args[1:], " ")); err != nil {
		if !quiet || !errors.Is(err, errNoModule) {
			fmt.Fprintln(os.Stderr, "modprobe:", err)
		}
		return 1
	}
	return 0
}
