// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// anonymizer has a key that is always the same.
func anonymizer(t testing.TB) *Anonymizer {
	t.Helper()
	a, err := NewAnonymizer([]byte("an anonymizer's key in the tests"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestCryptoPAn: the pairs that come with Crypto-PAn's reference implementation.
func TestCryptoPAn(t *testing.T) {
	a, err := newAnonymizer([]byte{
		21, 34, 23, 141, 51, 164, 207, 128, 19, 10, 91, 22, 73, 144, 125, 16,
		216, 152, 143, 131, 121, 121, 101, 39, 98, 87, 76, 45, 42, 132, 34, 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		"128.11.68.132": "135.242.180.132", "129.118.74.4": "134.136.186.123", "130.132.252.244": "133.68.164.234",
		"141.223.7.43": "141.167.8.160", "141.233.145.108": "141.129.237.235",
	} {
		if got := a.Addr(netip.MustParseAddr(from)); got.String() != want {
			t.Errorf("%s becomes %s, want %s", from, got, want)
		}
	}
	if _, err := NewAnonymizer([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}

// TestAnonymizeKeepsPrefixes: two addresses have as many bits in common afterwards
// as before.
func TestAnonymizeKeepsPrefixes(t *testing.T) {
	a, rnd := anonymizer(t), newRand(1)
	addrs := []netip.Addr{}
	for _, s := range []string{
		"0.0.0.1", "10.0.0.1", "127.0.0.2", "169.254.3.4", "224.0.0.5", "224.0.1.1", "239.1.2.3", "255.255.255.0", "192.168.0.1",
		"::", "::1", "::2", "::ffff:1:2:3", "1000::1:a00:1", "2001:db8::1", "3fff::1", "fc00::1", "fd12::1", "fe7f::1", "fe80::1", "fe80:1::", "fec0::1",
		"ff02::1", "ff02::2", "ff02::1:2", "ff02::1:ff00:1", "ff02::1:fe00:1", "ff02::1:ffff:ffff", "ff05::1:3", "ff3e:20:2001:db8::1", "ff02::4000:1", "ffff:ffff::",
	} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	for range 300 {
		near := addrs[rnd.IntN(len(addrs))].AsSlice()
		for i := range near {
			if rnd.IntN(4) == 0 {
				near[i] ^= byte(1 << rnd.IntN(8))
			}
		}
		if addr, _ := netip.AddrFromSlice(near); !addr.Is4In6() {
			addrs = append(addrs, addr)
		}
	}
	for i, x := range addrs {
		for _, y := range addrs[i+1:] {
			if x.Is4() != y.Is4() {
				continue
			}
			before, after := commonBits(x.AsSlice(), y.AsSlice()), commonBits(a.Addr(x).AsSlice(), a.Addr(y).AsSlice())
			if before != after {
				t.Fatalf("%s and %s have %d bits in common, %s and %s %d", x, y, before, a.Addr(x), a.Addr(y), after)
			}
		}
	}
}

func TestAnonymizeKeepsClasses(t *testing.T) {
	a := anonymizer(t)
	for _, s := range []string{"0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "255.255.0.0", "::", "::1", "ff02::1", "ff02::16", "ff02::1:2"} {
		if got := a.Addr(netip.MustParseAddr(s)); got.String() != s {
			t.Errorf("%s becomes %s", s, got)
		}
	}
	for from, class := range map[string]string{
		"169.254.1.2": "169.254.0.0/16", "239.1.2.3": "224.0.0.0/4", "fe80::2:3": "fe80::/64", "fd00::1": "fc00::/7", "2001:db8::1": "2000::/3",
		"ff3e::8000:1234": "ff3e::/16", "ff02::1:ff12:3456": "ff02::1:ff00:0/104", "::ffff:10.0.0.1": "::ffff:0:0/96",
	} {
		addr := netip.MustParseAddr(from)
		if got := a.Addr(addr); got == addr || !netip.MustParsePrefix(class).Masked().Contains(got) && !strings.HasPrefix(got.String(), "::ffff:") {
			t.Errorf("%s becomes %s, want another of %s", from, got, class)
		}
	}
	if a.Addr(netip.MustParseAddr("::ffff:10.0.0.1")).Unmap() != a.Addr(netip.MustParseAddr("10.0.0.1")) {
		t.Error("an IPv4 address in IPv6 form becomes another one")
	}
	for _, m := range [][6]byte{{}, {255, 255, 255, 255, 255, 255}, {1, 0x80, 0xc2}, {0x33, 0x33, 0, 0, 0, 1}, {1, 0, 0x5e, 0, 0, 1}} {
		if a.mac(m) != m {
			t.Errorf("% x becomes % x", m, a.mac(m))
		}
	}
	if m := a.mac([6]byte{0, 0x1b, 0x21, 1, 2, 3}); m[0]&3 != 2 {
		t.Errorf("% x is no local address of one machine", m)
	}
	group := a.Addr(netip.MustParseAddr("ff02::1:ff12:3456")).As16()
	if m := a.mac([6]byte{0x33, 0x33, 0xff, 0x12, 0x34, 0x56}); [3]byte(m[3:]) != [3]byte(group[13:]) {
		t.Errorf("the group is % x, its Ethernet address % x", group, m)
	}
}

func TestAnonymizeText(t *testing.T) {
	a := anonymizer(t)
	addr := func(s string) string { return a.Addr(netip.MustParseAddr(s)).String() }
	prefix := func(s string) string { return a.Prefix(netip.MustParsePrefix(s)).String() }
	m := a.mac([6]byte{2, 0, 0, 0, 0, 1})
	mac := fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
	for from, want := range map[string]string{
		"":                  "",
		"nsm-1 at 12:34:56": "nsm-1 at 12:34:56",
		"ip saddr 10.1.0.0/16 tcp dport 80 dnat to 10.0.0.1:8080": "ip saddr " + prefix("10.1.0.0/16") + " tcp dport 80 dnat to " + addr("10.0.0.1") + ":8080",
		"10.0.0.1-10.0.0.9":         addr("10.0.0.1") + "-" + addr("10.0.0.9"),
		"10.0.0.1/255.255.255.0":    addr("10.0.0.1") + "/255.255.255.0",
		"ip-10-0-0-1.internal":      "ip-" + strings.ReplaceAll(addr("10.0.0.1"), ".", "-") + ".internal",
		"[2001:db8::1]:80":          "[" + addr("2001:db8::1") + "]:80",
		"2001:db8::/32":             prefix("2001:db8::/32"),
		"via fe80::1%eth0":          "via " + addr("fe80::1") + "%eth0",
		"from 2001:db8::1: refused": "from " + addr("2001:db8::1") + ": refused",
		"02:00:00:00:00:01":         mac,
		"0x13b8/0xffffffff":         "0x13b8/0xffffffff",
		"::ffff:10.0.0.1/128":       "::ffff:" + addr("10.0.0.1") + "/128",
		"5000:10.0.0.1. And":        "5000:" + addr("10.0.0.1") + ". And",
		"at 17:38:34.786285":        "at 17:38:34.786285",
	} {
		if got := a.Text(from); got != want {
			t.Errorf("%q becomes %q, want %q", from, got, want)
		}
	}
}

// TestAnonymizeContexts: every field there is, so that one that is added is told
// here if it is of a type that cannot be replaced.
func TestAnonymizeContexts(t *testing.T) {
	a := anonymizer(t)
	const secret = "198.51.100.77"
	c := &Context{}
	fill(t, reflect.ValueOf(c).Elem(), secret)
	was := fmt.Sprintf("%+v", deep(reflect.ValueOf(c)))
	out := a.context(c)
	out.Session.Version, out.Session.Kernel = "", "" // as they are
	if got := fmt.Sprintf("%+v", deep(reflect.ValueOf(out))); strings.Contains(got, secret) || strings.Contains(got, "198.51.100.0/24") {
		t.Errorf("an address is left:\n%s", got)
	}
	if now := fmt.Sprintf("%+v", deep(reflect.ValueOf(c))); now != was {
		t.Error("the context itself was changed")
	}
	if !out.Session.Anonymized || out.Session.Filter != nil {
		t.Errorf("session %+v", out.Session)
	}
}

// fill sets every field below v, texts and addresses to secret.
func fill(t *testing.T, v reflect.Value, secret string) {
	switch v.Type() {
	case addrType:
		v.Set(reflect.ValueOf(netip.MustParseAddr(secret)))
		return
	case prefixType:
		v.Set(reflect.ValueOf(netip.MustParsePrefix("198.51.100.0/24")))
		return
	case endType:
		v.Set(reflect.ValueOf(netip.AddrPortFrom(netip.MustParseAddr(secret), 80)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), secret)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), secret)
		}
	case reflect.String:
		v.SetString("name " + secret)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			t.Errorf("a context has bytes, which are not looked at: %s", v.Type())
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), secret)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf(secret), reflect.ValueOf(secret))
	case reflect.Int, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Bool, reflect.Float64:
	default:
		t.Errorf("a context has a %s, which is not looked at", v.Type())
	}
}

// deep is v with what its pointers point to.
func deep(v reflect.Value) any {
	switch {
	case v.Type() == addrType, v.Type() == prefixType, v.Type() == endType:
		return fmt.Sprint(v.Interface())
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return deep(v.Elem())
	case v.Kind() == reflect.Struct:
		var all []any
		for i := range v.NumField() {
			all = append(all, v.Type().Field(i).Name, deep(v.Field(i)))
		}
		return all
	case v.Kind() == reflect.Slice:
		var all []any
		for i := range v.Len() {
			all = append(all, deep(v.Index(i)))
		}
		return all
	}
	return v.Interface()
}

func FuzzAnonymizeText(f *testing.F) {
	for _, s := range []string{"10.0.0.1:80", "::1:80", "a:b:c/8", "1-2-3-4", "fe80::%x", "1.2.3.4/", "::/0"} {
		f.Add(s)
	}
	a := anonymizer(f)
	f.Fuzz(func(t *testing.T, s string) {
		a.Text(s)
	})
}
