// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// File descriptors over a unix socket (unix(7), SCM_RIGHTS).

// maxDescriptors is what the kernel takes in one message (SCM_MAX_FD).
const maxDescriptors = 253

// duplicate is a descriptor of its own for what c has open.
func duplicate(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(from uintptr) { fd, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr != nil {
		return -1, fmt.Errorf("duplicate a descriptor: %w", dupErr)
	}
	return fd, nil
}

// sendDescriptors sends text, which is short, with the descriptors.
func sendDescriptors(c *net.UnixConn, text string, fds []int) error {
	if len(fds) > maxDescriptors {
		return fmt.Errorf("%d descriptors cannot be handed over, %d at most", len(fds), maxDescriptors)
	}
	n, _, err := c.WriteMsgUnix([]byte(text), unix.UnixRights(fds...), nil)
	if err == nil && n < len(text) {
		err = errors.New("the message was cut")
	}
	return err
}

// receiveDescriptors reads at most size bytes of text, and the descriptors that
// came with it. After an error there are none.
func receiveDescriptors(c *net.UnixConn, size int) (text string, fds []int, err error) {
	buf, oob := make([]byte, size), make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return "", nil, err
	}
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err == nil {
			fds = append(fds, more...)
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		closeAll(fds)
		return "", nil, errors.New("some descriptors did not come through: raise the limit of open files (ulimit -n)")
	}
	return string(buf[:n]), fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
