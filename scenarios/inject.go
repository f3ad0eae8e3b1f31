// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

// Packets that are sent as they are.

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// LabOf tells whose namespace it is: of which lab, and which of its nodes.
func LabOf(namespace string) (lab, node string, ok bool) {
	for _, l := range labs {
		if node, ok := strings.CutPrefix(namespace, l.namespace("")); ok {
			return l.name, node, true
		}
	}
	return "", "", false
}

// Inject sends a packet, which begins with its IP header, from node. The node routes
// it like its own.
func (w *World) Inject(node string, packet []byte) error {
	if len(packet) == 0 {
		return errors.New("inject an empty packet")
	}
	var family int
	var dst unix.Sockaddr
	switch {
	case packet[0]>>4 == 4 && len(packet) >= 20:
		family, dst = unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	case packet[0]>>4 == 6 && len(packet) >= 40:
		family, dst = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	default:
		return fmt.Errorf("inject %d bytes that are no IP packet", len(packet))
	}
	return w.Inside(node, func() error {
		// IPPROTO_RAW: the header is part of what is sent (raw(7)).
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("open a raw socket in %s: %w", node, err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, packet, 0, dst); err != nil {
			return fmt.Errorf("inject %d bytes in %s: %w", len(packet), node, err)
		}
		return nil
	})
}
