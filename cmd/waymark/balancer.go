// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"waymark/decoder"
	"waymark/nfqlb"
	"waymark/tracer/place"
)

// balancerState reads the state of the balancer, ours or nfqlb, of a
// namespace; nil if there is none.
func balancerState(ns place.Namespace) (*decoder.Balancer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var b *decoder.Balancer
	err := ns.Do(func() error {
		pid, err := balancerPID(ctx)
		if err != nil {
			return nil // nobody listens
		}
		root := fmt.Sprintf("/proc/%d", pid)
		if b, err = nfqlb.Snapshot(ctx, root+"/root"+nfqlb.ShmDir); err != nil {
			return err
		}
		cmdline, err := os.ReadFile(root + "/cmdline")
		if err != nil {
			return err
		}
		args := bytes.Split(bytes.TrimRight(cmdline, "\x00"), []byte{0})
		words := make([]string, len(args))
		for i, a := range args {
			words[i] = string(a)
		}
		if c, name, ok := nfqlb.ServeOptions(words); ok {
			b.Name, b.HashMode, b.PromiscuousPing = name, int(c.HashMode), c.PromiscuousPing
			b.Tier = nfqlb.ServeTier(words)
		}
		return nil
	})
	if errors.Is(err, nfqlb.ErrNoBalancer) {
		return nil, nil
	}
	return b, err
}

// balancerPID is the process that listens on the balancer's control socket in
// the calling thread's network namespace, as the kernel tells (unix(7),
// SO_PEERCRED).
func balancerPID(ctx context.Context) (int, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", "@nfqlb")
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Pid), nil
}
