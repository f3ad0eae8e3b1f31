// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A virtual machine for tests may have no /etc: there the names that tests use
// come from here.
const (
	someServices = `# service port/protocol aliases
ssh		22/tcp				# SSH Remote Login Protocol
domain		53/tcp
domain		53/udp
tftp		69/udp
http		80/tcp		www		# WorldWideWeb HTTP
https		443/tcp
https		443/udp
split		1000/tcp
split		1001/udp
`
	someProtocols = `ip	0	IP		# internet protocol, pseudo protocol number
gre	47	GRE
ipv6-icmp 58	IPv6-ICMP
`
)

func TestMain(m *testing.M) {
	code, err := withNames(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withNames(run func() int) (int, error) {
	dir, err := os.MkdirTemp("", "names")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, f := range []struct {
		file    *string
		content string
	}{{&servicesFile, someServices}, {&protocolsFile, someProtocols}} {
		if _, err := os.Stat(*f.file); err == nil {
			continue
		}
		*f.file = filepath.Join(dir, filepath.Base(*f.file))
		if err := os.WriteFile(*f.file, []byte(f.content), 0o600); err != nil {
			return 0, err
		}
	}
	return run(), nil
}

func TestServicePort(t *testing.T) {
	defer func(s string) { servicesFile = s }(servicesFile)
	servicesFile = filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(servicesFile, []byte(someServices), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		port  uint16
		proto protocol
		ok    bool
	}{
		{"http", 80, tcp, true},
		{"www", 80, tcp, true},
		{"tftp", 69, udp, true},
		{"domain", 53, anyProtocol, true},
		{"split", 1000, tcp, true}, // two ports: tcp's
		{"8080", 8080, anyProtocol, true},
		{"70000", 0, anyProtocol, false},
		{"nosuch", 0, anyProtocol, false},
		{"80/tcp", 0, anyProtocol, false},
	} {
		port, proto, ok := servicePort(c.name)
		if port != c.port || proto != c.proto || ok != c.ok {
			t.Errorf("%s: got %d %q %v", c.name, port, proto, ok)
		}
	}
	servicesFile = filepath.Join(t.TempDir(), "none")
	if _, _, ok := servicePort("http"); ok {
		t.Error("http is known without a file")
	}
}
