// SPDX-License-Identifier: Apache-2.0

// Addresses in contexts: as such, and wherever a text has one.

package decoder

import (
	"net"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
)

// context returns a copy of c with other addresses. It looks at every field
// there is, so that one that is added later is not forgotten.
func (a *Anonymizer) context(c *Context) *Context {
	out := a.value(reflect.ValueOf(c)).Interface().(*Context)
	if s := out.Session; s != nil {
		// As typed it may have addresses in ways that cannot be told, such as
		// "net 10.1" or "ip[16:4] = 0xa000001".
		s.Filter = nil
		s.Anonymized = true
		s.Version, s.Kernel = c.Session.Version, c.Session.Kernel // 6.1.0.1 is no address
	}
	return out
}

var (
	addrType   = reflect.TypeFor[netip.Addr]()
	prefixType = reflect.TypeFor[netip.Prefix]()
	endType    = reflect.TypeFor[netip.AddrPort]()
)

// value returns a copy of v, which is of a Context.
func (a *Anonymizer) value(v reflect.Value) reflect.Value {
	switch v.Type() {
	case addrType:
		return reflect.ValueOf(a.Addr(v.Interface().(netip.Addr)))
	case prefixType:
		return reflect.ValueOf(a.Prefix(v.Interface().(netip.Prefix)))
	case endType:
		end := v.Interface().(netip.AddrPort)
		return reflect.ValueOf(netip.AddrPortFrom(a.Addr(end.Addr()), end.Port()))
	}
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() {
	case reflect.String:
		out.SetString(a.Text(v.String()))
	case reflect.Pointer:
		if !v.IsNil() {
			out.Set(reflect.New(v.Type().Elem()))
			out.Elem().Set(a.value(v.Elem()))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(a.value(v.Field(i)))
		}
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(a.value(v.Index(i)))
		}
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		out.Set(reflect.MakeMapWithSize(v.Type(), v.Len()))
		for it := v.MapRange(); it.Next(); {
			out.SetMapIndex(a.value(it.Key()), a.value(it.Value()))
		}
	default:
		return v
	}
	return out
}

// addressText finds what may have an address: what has colons (IPv6 or MAC) or
// dots, with a prefix length, and four numbers with dashes as in names of hosts.
var addressText = regexp.MustCompile(`[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]*(?:/[0-9]+)?|[0-9]+-[0-9]+-[0-9]+-[0-9]+`)

// dottedText finds an IPv4 address in what is none by itself.
var dottedText = regexp.MustCompile(`[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+`)

// Text replaces the addresses in a text.
func (a *Anonymizer) Text(s string) string {
	if !strings.ContainsAny(s, ".:-") {
		return s
	}
	return addressText.ReplaceAllStringFunc(s, a.word)
}

// word replaces what addresses there are in s, which addressText has found.
func (a *Anonymizer) word(s string) string {
	if to, ok := a.address(s); ok {
		return to
	}
	if addr, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ".")); err == nil {
		return strings.ReplaceAll(a.Addr(addr).String(), ".", "-")
	}
	if left, length, ok := strings.Cut(s, "/"); ok {
		return a.word(left) + "/" + length
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 { // a port, or the sentence goes on
		return a.word(s[:i]) + ":" + a.word(s[i+1:])
	}
	return dottedText.ReplaceAllStringFunc(s, func(s string) string {
		to, _ := a.address(s)
		return to
	})
}

// address replaces s if it is an address or a prefix; else it stays.
func (a *Anonymizer) address(s string) (string, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return a.Prefix(p).String(), true
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return a.Addr(addr).String(), true
	}
	if m, err := net.ParseMAC(s); err == nil && len(m) == 6 && strings.Count(s, ":") == 5 {
		to := a.mac([6]byte(m))
		return net.HardwareAddr(to[:]).String(), true
	}
	return s, false
}
