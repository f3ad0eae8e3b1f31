// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The fast path of a balancer that serves: its devices, its counters, and what
// stays behind when it ends.
func TestLBServesFastPath(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	defer cancel()
	shm := fmt.Sprintf("wm-test-fast-%d", os.Getpid())
	t.Cleanup(func() { lbOutput(t, "delete --shm="+shm) })
	within(t, func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "nsm-1"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "ext0"}); err != nil {
			t.Error(err)
			return
		}
		server := startWaymark(t, ctx, true, "lb", "serve", "--queue", "7", "--metrics", "127.0.0.1:9101", "--ft-shm", shm, "--fastpath", "on")
		if server == nil || !server.await(`"the fast path serves nsm-1"`) {
			return
		}
		conn, err := net.Dial("tcp", "127.0.0.1:9101")
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /metrics HTTP/1.0\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Error(err)
		}
		for _, want := range []string{
			"waymark_lb_fastpath_active 1",
			`waymark_lb_fastpath_packets_total{outcome="placed"} 0`,
			`waymark_lb_fastpath_packets_total{outcome="queue_fragment"} 0`,
		} {
			if !strings.Contains(string(body), want+"\n") {
				t.Errorf("no %s in\n%s", want, body)
			}
		}
		server.end(unix.SIGTERM)
		l, err := netlink.LinkByName("nsm-1")
		if err != nil {
			t.Error(err)
			return
		}
		// Before tcx the program is a filter; a tcx link ends with its process.
		if filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS); err == nil && len(filters) > 0 {
			t.Errorf("filters after the end: %v", filters)
		}
	})
}

func TestLBFastPathRefuses(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"serve --fastpath maybe", "none of on, auto and off"},
		{"serve --fastpath on --fastpath-device [", "no pattern"},
		{"serve --fastpath-redirect", "needs --fastpath"},
	} {
		_, err := lbOutput(t, c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
}
