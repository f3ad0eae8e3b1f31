// SPDX-License-Identifier: Apache-2.0

// The module index: which module is in which file, what it needs, and which
// aliases the kernel asks for it by. The host writes it once per kernel, the
// guest's modprobe reads it.

package vm

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

const guestIndexPath = "/lib/modules/waymark.index"

// module is one loadable module. Names have underscores, never dashes.
type module struct {
	name string
	path string   // absolute, in the guest
	deps []string // module names that must be loaded before
	soft []string // names or aliases that should be, if they exist ("softdep pre")
}

type moduleAlias struct{ pattern, module string }

// moduleIndex is the whole index. Builtin names need no loading.
type moduleIndex struct {
	modules map[string]module
	aliases []moduleAlias
	builtin map[string]bool
}

func newModuleIndex() *moduleIndex {
	return &moduleIndex{modules: map[string]module{}, builtin: map[string]bool{}}
}

// moduleName is the name of the module in a file such as cls_bpf.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return normalName(name)
}

// normalName makes dashes underscores, as the kernel does for module names; in
// an alias pattern a bracket expression keeps its dashes.
func normalName(s string) string {
	depth := 0
	return strings.Map(func(r rune) rune {
		switch {
		case r == '[':
			depth++
		case r == ']' && depth > 0:
			depth--
		case r == '-' && depth == 0:
			return '_'
		}
		return r
	}, s)
}

// readModinfo reads the .modinfo section of a kernel module (ELF): key=value
// strings separated by NUL (kernel: include/linux/moduleparam.h).
func readModinfo(ko []byte) (info map[string][]string, err error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, fmt.Errorf("not a kernel module: %w", err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, fmt.Errorf("not a kernel module: no .modinfo section")
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("kernel module: %w", err)
	}
	return parseModinfo(data), nil
}

func parseModinfo(data []byte) map[string][]string {
	info := map[string][]string{}
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if k, v, ok := strings.Cut(string(entry), "="); ok && v != "" {
			info[k] = append(info[k], v)
		}
	}
	return info
}

// add puts the module with this modinfo into the index.
func (x *moduleIndex) add(guestPath string, info map[string][]string) module {
	m := module{name: moduleName(guestPath), path: guestPath}
	for _, list := range info["depends"] {
		for d := range strings.SplitSeq(list, ",") {
			if oneWord(d) {
				m.deps = append(m.deps, normalName(d))
			}
		}
	}
	for _, line := range info["softdep"] {
		pre := false
		for _, word := range strings.Fields(line) {
			switch {
			case strings.HasSuffix(word, ":"):
				pre = word == "pre:"
			case pre:
				m.soft = append(m.soft, normalName(word))
			}
		}
	}
	slices.Sort(m.deps) // neither list has an order to keep
	slices.Sort(m.soft)
	for _, a := range info["alias"] {
		x.addAlias(a, m.name)
	}
	x.modules[m.name] = m
	return m
}

func (x *moduleIndex) addAlias(pattern, module string) {
	if oneWord(pattern) {
		x.aliases = append(x.aliases, moduleAlias{normalName(pattern), module})
	}
}

// oneWord reports whether s can stand in a line of the index.
func oneWord(s string) bool {
	f := strings.Fields(s)
	return len(f) == 1 && f[0] == s
}

// addBuiltin takes the modules.builtin.modinfo of a kernel: NAME.KEY=VALUE
// strings separated by NUL.
func (x *moduleIndex) addBuiltin(data []byte) {
	for key, values := range parseModinfo(data) {
		name, key, _ := strings.Cut(key, ".")
		if name = normalName(name); !oneWord(name) {
			continue
		}
		x.builtin[name] = true
		if key == "alias" {
			for _, a := range values {
				x.addAlias(a, name)
			}
		}
	}
}

// find returns the modules that a name or alias stands for; none and true if
// it is built into the kernel.
func (x *moduleIndex) find(name string) (mods []string, known bool) {
	name = normalName(name)
	if _, ok := x.modules[name]; ok {
		return []string{name}, true
	}
	if x.builtin[name] {
		return nil, true
	}
	for _, a := range x.aliases {
		if ok, err := path.Match(a.pattern, name); err != nil || !ok {
			continue
		}
		known = true
		if !x.builtin[a.module] && !slices.Contains(mods, a.module) {
			mods = append(mods, a.module)
		}
	}
	return mods, known
}

// order lists the modules to load for one, dependencies first. A dependency
// that is not in the index is an error; a soft one is left out.
func (x *moduleIndex) order(name string) ([]module, error) {
	var out []module
	done := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if done[name] || x.builtin[name] {
			return nil
		}
		done[name] = true // before its dependencies: a soft one may be circular
		m, ok := x.modules[name]
		if !ok {
			return fmt.Errorf("kernel module %s is not in the guest: add it to the selection in scenarios/vm", name)
		}
		for _, s := range m.soft {
			mods, _ := x.find(s)
			for _, d := range mods {
				_ = visit(d)
			}
		}
		for _, d := range m.deps {
			if err := visit(d); err != nil {
				return fmt.Errorf("%s needs %w", name, err)
			}
		}
		out = append(out, m)
		return nil
	}
	if err := visit(name); err != nil {
		return nil, err
	}
	return out, nil
}

// writeTo writes the index as lines of words: "module NAME PATH", "dep NAME D",
// "soft NAME D", "alias PATTERN NAME", "builtin NAME", sorted.
func (x *moduleIndex) writeTo(w io.Writer) error {
	var lines []string
	for _, m := range x.modules {
		lines = append(lines, "module "+m.name+" "+m.path)
		for _, d := range m.deps {
			lines = append(lines, "dep "+m.name+" "+d)
		}
		for _, d := range m.soft {
			lines = append(lines, "soft "+m.name+" "+d)
		}
	}
	for _, a := range x.aliases {
		lines = append(lines, "alias "+a.pattern+" "+a.module)
	}
	for b := range x.builtin {
		lines = append(lines, "builtin "+b)
	}
	slices.Sort(lines)
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

// readModuleIndex reads what writeTo wrote.
func readModuleIndex(r io.Reader) (*moduleIndex, error) {
	x := newModuleIndex()
	deps, soft := map[string][]string{}, map[string][]string{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		f := strings.Fields(sc.Text())
		switch {
		case len(f) == 0:
		case f[0] == "module" && len(f) == 3:
			x.modules[f[1]] = module{name: f[1], path: f[2]}
		case f[0] == "dep" && len(f) == 3:
			deps[f[1]] = append(deps[f[1]], f[2])
		case f[0] == "soft" && len(f) == 3:
			soft[f[1]] = append(soft[f[1]], f[2])
		case f[0] == "alias" && len(f) == 3:
			x.aliases = append(x.aliases, moduleAlias{f[1], f[2]})
		case f[0] == "builtin" && len(f) == 2:
			x.builtin[f[1]] = true
		default:
			return nil, fmt.Errorf("module index line %d is not understood: %q", n, sc.Text())
		}
	}
	for name, m := range x.modules {
		m.deps, m.soft = deps[name], soft[name]
		x.modules[name] = m
	}
	return x, sc.Err()
}
