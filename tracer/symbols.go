// SPDX-License-Identifier: Apache-2.0

//go:build linux

package tracer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// functionNames returns what names kernel addresses: function+0xoffset, or the
// bare address in hex. The kernel is asked for each; one that cannot answer, before
// 5.13, has its symbols read when the first is wanted.
func (p *programs) functionNames(log zerolog.Logger) func(addr uint64) string {
	if c, err := ebpf.NewCollectionWithOptions(only(p.spec, "name_symbol"), ebpf.CollectionOptions{MapReplacements: p.shared.Maps}); err == nil {
		p.loaded = append(p.loaded, c)
		return func(addr uint64) string { return p.askName(c.Programs["name_symbol"], addr) }
	}
	read := sync.OnceValue(func() *symbols {
		s, err := loadSymbols()
		if err != nil {
			log.Warn().Err(err).Msg("kernel functions are shown as addresses")
			return &symbols{}
		}
		return s
	})
	return func(addr uint64) string { return read().name(addr) }
}

// askName runs the program that names an address.
func (p *programs) askName(prog *ebpf.Program, addr uint64) string {
	hex := fmt.Sprintf("0x%x", addr)
	var text [symbolLen]byte
	if _, err := prog.Run(&ebpf.RunOptions{Context: addr}); err != nil {
		return hex
	}
	if err := p.shared.Variables["symbol"].Get(&text); err != nil {
		return hex
	}
	name, _, _ := strings.Cut(unix.ByteSliceToString(text[:]), "/") // the function's length, its module
	return name
}

// symbolLen is the size of symbol in bpf/symbol.c.
const symbolLen = 640

// symbols names kernel addresses from /proc/kallsyms.
type symbols struct {
	addrs []uint64
	names []string
}

// errHiddenSymbols is returned where the kernel hides its addresses.
var errHiddenSymbols = errors.New("kernel addresses are hidden: set sysctl kernel.kptr_restrict=0 or run as root to see function names")

func loadSymbols() (*symbols, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	defer f.Close()
	return parseSymbols(f)
}

// knownFunctions are those of names that the kernel and its modules have now.
func knownFunctions(names []string) ([]string, error) {
	s, err := loadSymbols()
	if err != nil {
		return nil, err
	}
	var known []string
	for _, n := range names {
		if slices.Contains(s.names, n) {
			known = append(known, n)
		}
	}
	if len(known) == 0 {
		return nil, noneOf(names)
	}
	return known, nil
}

// parseSymbols parses lines of "address type name [module]"; only functions
// (types t and T, w and W) are kept. There are some hundred thousand lines: all
// names are parts of one string.
func parseSymbols(r io.Reader) (*symbols, error) {
	s := &symbols{}
	var text []byte
	var ends []int // of the names in text
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		hex, rest, ok := bytes.Cut(lines.Bytes(), []byte(" "))
		if !ok || len(rest) < 3 || bytes.IndexByte([]byte("tTwW"), rest[0]) < 0 {
			continue
		}
		addr, err := strconv.ParseUint(string(hex), 16, 64)
		if err != nil || addr == 0 {
			continue
		}
		name, _, _ := bytes.Cut(rest[2:], []byte("\t"))
		text = append(text, name...)
		s.addrs, ends = append(s.addrs, addr), append(ends, len(text))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	if len(s.addrs) == 0 {
		return nil, errHiddenSymbols
	}
	all, begin := string(text), 0
	s.names = make([]string, len(ends))
	for i, end := range ends {
		s.names[i], begin = all[begin:end], end
	}
	sort.Stable(s)
	return s, nil
}

func (s *symbols) Len() int           { return len(s.addrs) }
func (s *symbols) Less(i, j int) bool { return s.addrs[i] < s.addrs[j] }
func (s *symbols) Swap(i, j int) {
	s.addrs[i], s.addrs[j] = s.addrs[j], s.addrs[i]
	s.names[i], s.names[j] = s.names[j], s.names[i]
}

// maxFunction bounds how far past a symbol an address may be: farther is no
// address of a function we know (a module loaded since).
const maxFunction = 1 << 20

// name is function+0xoffset for addr, or the bare address in hex.
func (s *symbols) name(addr uint64) string {
	i := sort.Search(len(s.addrs), func(i int) bool { return s.addrs[i] > addr }) - 1
	if i < 0 || addr-s.addrs[i] > maxFunction {
		return fmt.Sprintf("0x%x", addr)
	}
	for i > 0 && s.addrs[i-1] == s.addrs[i] { // the first of several names
		i--
	}
	return fmt.Sprintf("%s+0x%x", s.names[i], addr-s.addrs[i])
}

// dropReasons reads the names of enum skb_drop_reason from the kernel's BTF,
// without their prefix. A kernel before 5.17 has none: the map is empty.
func dropReasons(spec *btf.Spec) map[uint32]string {
	names := map[uint32]string{}
	var enum *btf.Enum
	if spec.TypeByName("skb_drop_reason", &enum) != nil {
		return names
	}
	for _, v := range enum.Values {
		name := strings.TrimPrefix(v.Name, "SKB_DROP_REASON_")
		names[uint32(v.Value)] = strings.TrimPrefix(name, "SKB_")
	}
	return names
}
