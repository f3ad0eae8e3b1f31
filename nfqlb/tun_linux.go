// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tun is a tun device that packets are given back to the kernel through.
// Nothing is read from it.
type Tun struct{ file *os.File }

// OpenTun opens the tun device name in the calling thread's network namespace,
// and sets it up. A device that is not there is made, and goes with Close. The
// error wraps EPERM without CAP_NET_ADMIN.
func OpenTun(name string) (*Tun, error) {
	request, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("tun device %q: a name has 1 to %d bytes", name, unix.IFNAMSIZ-1)
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("tun device %s: %w; give the container the device /dev/net/tun", name, err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(fmt.Errorf("tun device %s: %w; it takes CAP_NET_ADMIN and a tun device that no other program has open", name, err), f.Close())
	}
	if err := setUp(name); err != nil {
		return nil, errors.Join(fmt.Errorf("tun device %s: set it up: %w", name, err), f.Close())
	}
	return &Tun{f}, nil
}

// TunFromFile is a tun device that another process opened. It closes f.
func TunFromFile(f *os.File) *Tun { return &Tun{f} }

// SyscallConn gives the device's descriptor, for another process.
func (t *Tun) SyscallConn() (syscall.RawConn, error) { return t.file.SyscallConn() }

func setUp(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, request); err != nil {
		return err
	}
	request.SetUint16(request.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// Inject gives the kernel a packet as if it came in from the device.
func (t *Tun) Inject(packet []byte) error {
	_, err := t.file.Write(packet)
	return err
}

// Close gives the device back.
func (t *Tun) Close() error { return t.file.Close() }
