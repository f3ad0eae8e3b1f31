// SPDX-License-Identifier: Apache-2.0

//go:build linux

package place

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// groups are what can change in a namespace that matters to a packet's way.
var groups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, // sysctls: forwarding, rp_filter
}

// Watch calls changed, from its own goroutine, each time the devices,
// addresses, rules, routes or settings of the namespace changed; a burst of changes is
// one call. It returns when ctx is done or the namespace cannot be watched.
// The subscription stands when ready is called, so nothing that changes after
// that is missed.
func Watch(ctx context.Context, ns Namespace, ready, changed func()) error {
	target, err := netns.GetFromPath(ns.Path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", ns.Name, err)
	}
	defer target.Close()
	sock, err := nl.SubscribeAt(target, netns.None(), unix.NETLINK_ROUTE, groups...)
	if err != nil {
		return fmt.Errorf("watch network namespace %s: %w", ns.Name, err)
	}
	// Closing ends the receive that waits.
	defer context.AfterFunc(ctx, sock.Close)()
	defer sock.Close()
	ready()
	changes, failed := make(chan struct{}, 1), make(chan error, 1)
	go func() { failed <- receive(sock, changes) }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch network namespace %s: %w", ns.Name, err)
		case <-changes:
		}
		settle(ctx)
		select {
		case <-changes: // is seen as well
		default:
		}
		changed()
	}
}

// receive notes in changes that something changed, until that cannot be heard. It
// goes on while a namespace is read: of what comes meanwhile one more reading is due,
// however much it is.
func receive(sock *nl.NetlinkSocket, changes chan<- struct{}) error {
	for {
		_, _, err := sock.Receive()
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS): // some were missed: everything is read again
		case err != nil:
			return err
		}
		select {
		case changes <- struct{}{}:
		default:
		}
	}
}

// settle waits until a burst of changes is likely over: reading a namespace
// once per route of a thousand would be a thousand dumps.
func settle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
}
