// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// lbOutput runs a balancer command line and returns what it prints.
func lbOutput(t *testing.T, line string) (string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	runErr := runLB(strings.Fields(line))
	os.Stdout = stdout
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), runErr
}

// The commands of Meridio's stream and what nfqlb prints for them.
func TestLBTableCommands(t *testing.T) {
	shm := fmt.Sprintf("wm-test-%d", os.Getpid())
	t.Cleanup(func() { lbOutput(t, "delete --shm="+shm) })
	for _, c := range []struct{ line, want string }{
		{"init --ownfw=0 --shm=SHM --M=10000 --N=100", "M adjusted; 10000 -> 9973\n"},
		{"activate --index=47 --shm=SHM 48", ""},
		{"activate --shm=SHM --index 57 58", ""},
		{"activate --index=66 --shm=SHM 67", ""},
		{
			"fwmark --shm=SHM --proto=tcp --src=20.0.0.7:40000 --dst=10.0.0.1:5000 --hash_mode=0",
			`{ "hash": 2882910532, "lookupindex": 5449, "activeindex": 66, "fwmark": 67 }` + "\n",
		},
		{"fwmark --src=20.0.0.7:40000 --dst=10.0.0.1:5000", `{ "hash": 983232551 }` + "\n"},
		{"fwmark --proto sctp --src=20.0.0.7:40000 --dst=10.0.0.1:5000", `{ "hash": 2092150236 }` + "\n"},
		{"fwmark --proto udp --src=[2001::7]:40000 --dst=[1000::1:a00:1]:5000", `{ "hash": 1235705681 }` + "\n"},
		{"activate --index=89 --shm=SHM 90", ""},
		{"show --shm=SHM", "Shm: SHM\n  Fw: own=0\n  Maglev: M=9973, N=100\n" +
			"   Lookup: 57 57 57 57 57 57 66 89 57 57 66 57 89 57 66 57 57 89 66 89 57 66 66 57 89...\n" +
			"   Active: 48(47) 58(57) 67(66) 90(89)\n"},
		{"deactivate --shm=SHM 58 67", ""},
		{"deactivate --shm=SHM --index=89", ""},
		{"activate --shm=SHM 7 8", ""},
		{"init --shm=SHM --M=3 --N=3", ""},
		{"activate --shm=SHM 7 8", ""},
		{"delete --shm=SHM", ""},
		{"primebelow 10000", "9973\n"},
	} {
		got, err := lbOutput(t, strings.ReplaceAll(c.line, "SHM", shm))
		if err != nil {
			t.Fatalf("%s: %v", c.line, err)
		}
		if want := strings.ReplaceAll(c.want, "SHM", shm); got != want {
			t.Errorf("%s\n got %q\nwant %q", c.line, got, want)
		}
	}
}

func TestLBRefuses(t *testing.T) {
	t.Setenv("NFQLB_FLOW_ADDRESS", "unix:wm-test-nobody")
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"dance", "unknown balancer command", exitUsage},
		{"init --M=7 --N=8", "not between 1 and M=7", exitUsage},
		{"init --shm=a/b", "no name of a shared table", exitUsage},
		{"activate --shm=wm-test-nosuch 5", "lb init --shm=wm-test-nosuch", exitUsage},
		{"activate --shm=wm-test-nosuch x", "no mark", exitUsage},
		{"activate --index=1 --shm=wm-test-nosuch", "needs one mark", exitUsage},
		{"delete", "needs --shm", exitUsage},
		{"show extra", "takes no argument", exitUsage},
		{"fwmark --src=1.2.3.4 --dst=1.2.3.4:5", "--src", exitUsage},
		{"flow-set --name=a --target=t --dports=5", "ports need --protocols", exitUsage},
		{"flow-set --name=a", "needs --target", exitUsage},
		{"flow-list", "no balancer listens", exitUnsupported},
		{"serve --queue=3:0", "neither a number nor a range", exitUsage},
		{"serve --hash_mode=2", "neither 0 nor 1", exitUsage},
		{"serve --mtu=500", "below 576", exitUsage},
		{"flowlb --ft_frag=-1", "--ft-frag -1 is below 0", exitUsage},
		{"flowlb --ft_ttl=0", "--ft-ttl 0 is not within", exitUsage},
		{"flowlb --ft-size=0 --ft_buckets=1", "--ft-size 0 is below 1", exitUsage},
		{"flowlb --ft_shm=a/b", "no name of a shared table", exitUsage},
		{"flowlb --lbshm=wm-test-nosuch", "lb init --shm=wm-test-nosuch", exitUsage},
		{"flowlb --tun=a-name-of-20-letters", "longer than 15 bytes", exitUsage},
		{"primebelow 1", "from 2 on", exitUsage},
	} {
		_, err := lbOutput(t, c.line)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
			continue
		}
		code := exitUsage
		if e, ok := err.(exitError); ok {
			code = e.code
		}
		if code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.line, code, c.code)
		}
	}
}
