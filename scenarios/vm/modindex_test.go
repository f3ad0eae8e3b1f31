// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// testIndex is a small world: a checksum behind an alias in two forms, a
// module that needs and would like others, a circle of soft dependencies.
func testIndex() *moduleIndex {
	x := newModuleIndex()
	x.addBuiltin([]byte("crc_core.license=GPL\x00crc_core.alias=crypto-crc\x00ipv6.alias=net-pf-10\x00"))
	x.add("/m/crc-plain.ko", parseModinfo([]byte("alias=crc\x00alias=crypto-crc32c\x00")))
	x.add("/m/crc-fast.ko", parseModinfo([]byte("alias=crc\x00")))
	x.add("/m/libcrc.ko", parseModinfo([]byte("softdep=pre: crc post: late\x00depends=\x00")))
	x.add("/m/nf.ko", parseModinfo([]byte("depends=libcrc,ipv6\x00")))
	x.add("/m/nft-queue.ko", parseModinfo([]byte("alias=nft-expr-queue\x00alias=pci:v0000[1-3]d*\x00depends=nf\x00")))
	x.add("/m/a.ko", parseModinfo([]byte("softdep=pre: b\x00")))
	x.add("/m/b.ko", parseModinfo([]byte("softdep=pre: a\x00")))
	x.add("/m/broken.ko", parseModinfo([]byte("depends=gone\x00")))
	return x
}

func TestFindAndOrder(t *testing.T) {
	x := testIndex()
	for _, tt := range []struct {
		ask, order string
		known      bool
	}{
		{"nft-expr-queue", "crc_plain crc_fast libcrc nf nft_queue", true},
		{"nft_queue", "crc_plain crc_fast libcrc nf nft_queue", true},
		{"nft-queue", "crc_plain crc_fast libcrc nf nft_queue", true},
		{"pci:v00002dffff", "crc_plain crc_fast libcrc nf nft_queue", true},
		{"pci:v00004dffff", "", false},
		{"crc", "crc_plain crc_fast", true},
		{"crypto-crc", "", true}, // built in
		{"ipv6", "", true},
		{"net-pf-10", "", true},
		{"late", "", false},
		{"a", "b a", true},
		{"", "", false},
	} {
		mods, known := x.find(tt.ask)
		var order []string
		for _, m := range mods {
			list, err := x.order(m)
			if err != nil {
				t.Errorf("%s: %v", tt.ask, err)
			}
			for _, m := range list {
				if !slices.Contains(order, m.name) {
					order = append(order, m.name)
				}
			}
		}
		if got := strings.Join(order, " "); got != tt.order || known != tt.known {
			t.Errorf("%q: loads %q, known %v; want %q, %v", tt.ask, got, known, tt.order, tt.known)
		}
	}
	if _, err := x.order("broken"); err == nil || !strings.Contains(err.Error(), "broken needs kernel module gone") {
		t.Errorf("missing dependency: %v", err)
	}
}

func TestIndexRoundTrip(t *testing.T) {
	x := testIndex()
	var b bytes.Buffer
	if err := x.writeTo(&b); err != nil {
		t.Fatal(err)
	}
	y, err := readModuleIndex(&b)
	if err != nil {
		t.Fatal(err)
	}
	byPattern := func(a, b moduleAlias) int { return strings.Compare(a.pattern+a.module, b.pattern+b.module) }
	slices.SortFunc(x.aliases, byPattern)
	slices.SortFunc(y.aliases, byPattern)
	if !reflect.DeepEqual(x, y) {
		t.Errorf("got %+v, want %+v", y, x)
	}
	if _, err := readModuleIndex(strings.NewReader("modul a b\n")); err == nil {
		t.Error("a line of nonsense was taken")
	}
}

// FuzzModinfo: whatever a module says about itself, the index can be written
// and read again, and answers.
func FuzzModinfo(f *testing.F) {
	f.Add([]byte("alias=nft-expr-*\x00depends=nf,libcrc\x00softdep=pre: crc post: x\x00"), "nft-expr-queue")
	f.Add([]byte("alias=a[b-c\x00alias=\x00depends=,\x00softdep=pre:\x00=\x00"), "a[b")
	f.Add([]byte("a.alias=x y\x00 .alias=z\x00.=\x00"), "x")
	f.Fuzz(func(t *testing.T, data []byte, ask string) {
		x := newModuleIndex()
		x.addBuiltin(data)
		x.add("/m/one.ko", parseModinfo(data))
		mods, _ := x.find(ask)
		for _, m := range mods {
			_, _ = x.order(m)
		}
		var b bytes.Buffer
		if err := x.writeTo(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := readModuleIndex(&b); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzModule reads arbitrary bytes as a module file.
func FuzzModule(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		info, err := readModinfo(data)
		if (err == nil) != (info != nil) {
			t.Errorf("info %v, error %v", info, err)
		}
	})
}
