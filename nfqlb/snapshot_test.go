// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"slices"
	"strings"
	"testing"
)

func TestServeOptions(t *testing.T) {
	for _, c := range []struct {
		args string
		want Config
		name string
	}{
		{"nfqlb flowlb --promiscuous_ping --queue=0:3 --qlength=1024 --hash_mode=0", Config{PromiscuousPing: true}, "nfqlb"},
		{"/bin/nfqlb flowlb --queue=0:3", Config{HashMode: HashSCTPPorts}, "nfqlb"},
		{"/usr/bin/waymark lb serve --hash-mode 0 --promiscuous-ping", Config{PromiscuousPing: true}, "waymark"},
		{"waymark lb serve --promiscuous-ping=false", Config{HashMode: HashSCTPPorts}, "waymark"},
		{"nfqlb lb --tshm=vips --queue=2 --hash_mode=0", Config{}, "nfqlb"},
		{"nfqlb show", Config{}, ""},
		{"waymark trace", Config{}, ""},
		{"waymark lb", Config{}, ""},
		{"bird -d", Config{}, ""},
		{"", Config{}, ""},
	} {
		got, name, ok := ServeOptions(strings.Fields(c.args))
		if !ok {
			name = ""
		}
		if name != c.name || ok && got != c.want {
			t.Errorf("%q: %+v by %q, want %+v by %q", c.args, got, name, c.want, c.name)
		}
	}
}

func TestServeTier(t *testing.T) {
	for args, want := range map[string]string{
		"nfqlb flowlb --lbshm=nfqlbLb --queue=2":     "nfqlbLb",
		"nfqlb flowlb --queue=2 --lbshm nfqlbLb":     "nfqlbLb",
		"waymark lb serve --tun nfqlb0 --lbshm":      "",
		"waymark lb serve --queue 0:3 --lbshmx=what": "",
	} {
		if got := ServeTier(strings.Fields(args)); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

func TestSnapshot(t *testing.T) {
	b := controlled(t)
	if err := b.SetFlow(FlowSpec{Name: "a", Target: "t"}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetFlow(FlowSpec{Name: "s", Target: "t", Protocols: []string{"sctp"}, UDPEncap: 9899}); err != nil {
		t.Fatal(err)
	}
	// The table of this balancer is no file: it is left out, like one deleted.
	got, err := Snapshot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Flows) != 2 || got.Flows[0].Name != "a" || len(got.Tables) != 0 {
		t.Fatalf("got %+v", got)
	}
	if !slices.Equal(got.Flows[1].Protocols, []string{"sctp"}) {
		t.Errorf("flow %+v", got.Flows[1])
	}
}
