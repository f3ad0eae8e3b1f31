// SPDX-License-Identifier: Apache-2.0

// Other addresses in place of the real ones: the same for the same, with the
// same common prefixes, so that rules, routes and neighbours still fit.

package decoder

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"net/netip"
)

// AnonymizerKey is the length of an Anonymizer's key, in bytes.
const AnonymizerKey = 32

// Anonymizer gives each address another one. Two addresses that have their
// first n bits in common, and no more, are replaced by two of which that is
// true as well (Fan, Xu, Ammar, Moon: Prefix-preserving IP address
// anonymization, 2004, known as Crypto-PAn; here for IPv6, too). Who has the
// key can undo it, and who knows many of the pairs can guess more.
//
// What tells a class of addresses and no machine stays as it is, see keptWhole
// and keptPrefixes. Not for concurrent use.
type Anonymizer struct {
	cipher cipher.Block
	pad    [16]byte
	kept   []keptPrefix
	cache  map[[16]byte][16]byte // IPv4 as ::ffff:a.b.c.d
	macs   map[[6]byte][6]byte
}

// maxAnonymized bounds the addresses remembered; after that they are computed
// again.
const maxAnonymized = 1 << 16

// keptPrefix is a prefix that is replaced by itself. whole: so are the
// addresses in it.
type keptPrefix struct {
	netip.Prefix
	whole bool
}

// keptWhole identify nobody: the unspecified address and "this network",
// loopback, link-local and well-known multicast groups, masks.
var keptWhole = []string{
	"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/24", "255.0.0.0/8",
	"::/127", "ffff::/16",
}

// keptPrefixes are classes that the kernel treats differently.
var keptPrefixes = []string{
	"169.254.0.0/16", "224.0.0.0/4",
	"2000::/3", "fc00::/7", "fe80::/64", "ff00::/8",
	// Solicited-node groups (RFC 4291): the low 24 bits are an address's.
	"ff02::1:ff00:0/104",
}

// NewAnonymizer returns one for a key of AnonymizerKey random bytes.
func NewAnonymizer(key []byte) (*Anonymizer, error) {
	a, err := newAnonymizer(key)
	if err != nil {
		return nil, err
	}
	for _, p := range keptWhole {
		a.kept = append(a.kept, keptPrefix{netip.MustParsePrefix(p), true})
	}
	for _, p := range keptPrefixes {
		a.kept = append(a.kept, keptPrefix{netip.MustParsePrefix(p), false})
	}
	return a, nil
}

// newAnonymizer returns one that keeps nothing: Crypto-PAn as published.
func newAnonymizer(key []byte) (*Anonymizer, error) {
	if len(key) != AnonymizerKey {
		return nil, errors.New("the key to anonymize with must have 32 bytes")
	}
	block, err := aes.NewCipher(key[:16])
	if err != nil {
		return nil, err
	}
	a := &Anonymizer{cipher: block, cache: map[[16]byte][16]byte{}, macs: map[[6]byte][6]byte{}}
	block.Encrypt(a.pad[:], key[16:])
	return a, nil
}

// Addr replaces an address. An IPv4 address in IPv6 form stays in that form.
func (a *Anonymizer) Addr(addr netip.Addr) netip.Addr {
	switch {
	case !addr.IsValid():
		return addr
	case addr.Is4():
		return netip.AddrFrom4(a.addr4(addr.As4()))
	}
	return netip.AddrFrom16(a.addr16(addr.As16())).WithZone(addr.Zone())
}

// Prefix replaces a prefix, and the bits after it if it has any: a device's
// address has.
func (a *Anonymizer) Prefix(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return p
	}
	q := netip.PrefixFrom(a.Addr(p.Addr()), p.Bits())
	if p.Masked() == p {
		return q.Masked()
	}
	return q
}

func (a *Anonymizer) addr4(v [4]byte) [4]byte {
	to := a.addr16(netip.AddrFrom4(v).As16())
	return [4]byte(to[12:])
}

func (a *Anonymizer) addr16(v [16]byte) [16]byte {
	if to, ok := a.cache[v]; ok {
		return to
	}
	to := a.replace(netip.AddrFrom16(v).Unmap())
	if len(a.cache) >= maxAnonymized {
		clear(a.cache)
	}
	a.cache[v] = to
	return to
}

// replace flips bits: each or not by what a cipher makes of those before it, so
// that what follows a common prefix changes alike.
func (a *Anonymizer) replace(addr netip.Addr) [16]byte {
	from := addr.AsSlice()
	fixed := a.keeps(addr)
	to := addr.As16()
	out := to[16-len(from):]
	// The first bits of the address, then those of the pad.
	in := a.pad
	var sum [16]byte
	for i := range 8 * len(from) {
		bit := byte(0x80) >> (i % 8)
		if !fixed.at(i) {
			a.cipher.Encrypt(sum[:], in[:])
			if sum[0]&0x80 != 0 {
				out[i/8] ^= bit
			}
		}
		in[i/8] = in[i/8]&^bit | from[i/8]&bit
	}
	return to
}

// fixedBits are those of an address that are not flipped, as 128 bits.
type fixedBits [2]uint64

func (f fixedBits) at(i int) bool { return f[i/64]&(1<<(63-i%64)) != 0 }

func (f *fixedBits) set(i int) { f[i/64] |= 1 << (63 - i%64) }

// keeps tells which bits of addr are not flipped: those on the way to a kept
// prefix, so that nothing else is replaced by an address in it. It depends on
// the bits before alone, as it must.
func (a *Anonymizer) keeps(addr netip.Addr) (f fixedBits) {
	from := addr.AsSlice()
	for _, k := range a.kept {
		if k.Addr().Is4() == addr.Is4() && f.keep(k, from) {
			return f
		}
	}
	if !addr.Is4() && from[0] == 0xff && len(a.kept) > 0 {
		// Of other multicast, flags and scope; groups that IANA gave out, such as
		// ff02::1, are whole (RFC 3307).
		group := netip.AddrFrom16([16]byte{0: 0xff, 1: from[1]})
		f.keep(keptPrefix{netip.PrefixFrom(group, 16), false}, from)
		f.keep(keptPrefix{netip.PrefixFrom(group, 98), true}, from)
	}
	return f
}

// keep sets the bits that k keeps of addr; true: all of them.
func (f *fixedBits) keep(k keptPrefix, addr []byte) bool {
	n := commonBits(addr, k.Addr().AsSlice())
	for i := range min(n+1, k.Bits()) {
		f.set(i)
	}
	if k.whole && n >= k.Bits() {
		*f = fixedBits{^uint64(0), ^uint64(0)}
		return true
	}
	return false
}

// commonBits is how many bits a and b have in common from the first on.
func commonBits(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if d := a[i] ^ b[i]; d != 0 {
			n := 8 * i
			for ; d&0x80 == 0; d <<= 1 {
				n++
			}
			return n
		}
	}
	return 8 * min(len(a), len(b))
}

// mac replaces an Ethernet address by one that is locally administered. Those
// of multicast follow the group; no address, broadcast and the groups of
// bridges (IEEE 802.1Q) stay.
func (a *Anonymizer) mac(m [6]byte) [6]byte {
	if to, ok := a.macs[m]; ok {
		return to
	}
	to := a.replaceMAC(m)
	if len(a.macs) >= maxAnonymized {
		clear(a.macs)
	}
	a.macs[m] = to
	return to
}

func (a *Anonymizer) replaceMAC(m [6]byte) [6]byte {
	switch {
	case m == [6]byte{}, m == [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		m[0] == 0x01 && m[1] == 0x80 && m[2] == 0xc2,
		m[0] == 0x01 && m[1] == 0x00 && m[2] == 0x5e && m[3]&0x7f == 0 && m[4] == 0,
		m[0] == 0x33 && m[1] == 0x33 && m[2] == 0 && m[3] <= 1:
		return m
	case m[0] == 0x33 && m[1] == 0x33 && m[2] == 0xff: // RFC 2464, RFC 4291
		group := a.addr16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: m[3], 14: m[4], 15: m[5]})
		return [6]byte{0x33, 0x33, 0xff, group[13], group[14], group[15]}
	}
	in := a.pad
	for i, b := range m {
		in[i] ^= b
	}
	in[15] ^= 0xa5 // no prefix of an address
	var sum [16]byte
	a.cipher.Encrypt(sum[:], in[:])
	to := [6]byte(sum[:6])
	switch {
	case m[0] == 0x33 && m[1] == 0x33:
		to[0], to[1] = 0x33, 0x33
	case m[0] == 0x01 && m[1] == 0x00 && m[2] == 0x5e:
		to[0], to[1], to[2], to[3] = 0x01, 0x00, 0x5e, to[3]&0x7f
	default:
		to[0] = to[0]&^3 | 2 | m[0]&1
	}
	return to
}
