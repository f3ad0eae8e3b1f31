// SPDX-License-Identifier: Apache-2.0

// The lexer: text → tokens with positions. The longest match wins, as in
// pcap-filter(7): "80-90" is one word, "10.1" an address, "10:1" three tokens.

package filter

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

type kind uint8

const (
	tokEnd     kind = iota
	tokWord         // a keyword
	tokOp           // an operator or bracket
	tokNumber       // 80, 0x50, 0120, tcp-syn
	tokIPv4         // 10.1, 10.0.0.1
	tokIPv6         // 2001:db8::1
	tokMAC          // 02:00:00:00:00:01
	tokName         // anything else: a service, a protocol, a host
	tokEscaped      // \tcp: a keyword used as a name
)

type token struct {
	kind kind
	text string
	pos  int
	num  uint32 // tokNumber
}

func (t token) is(texts ...string) bool {
	if t.kind != tokWord && t.kind != tokOp {
		return false
	}
	for _, s := range texts {
		if t.text == s {
			return true
		}
	}
	return false
}

// isID reports whether t can be what a qualifier qualifies.
func (t token) isID() bool {
	switch t.kind {
	case tokNumber, tokIPv4, tokIPv6, tokMAC, tokName, tokEscaped:
		return true
	}
	return false
}

func longest(expr string) *regexp.Regexp {
	re := regexp.MustCompile("^(?:" + expr + ")")
	re.Longest()
	return re
}

// In order of preference among matches of one length.
var lexemes = []struct {
	kind kind
	re   *regexp.Regexp
}{
	{tokNumber, longest(`[0-9]+|0[xX][0-9A-Fa-f]+`)},
	{tokMAC, longest(`[0-9A-Fa-f]{1,2}(:[0-9A-Fa-f]{1,2}){5}|[0-9A-Fa-f]{1,2}(-[0-9A-Fa-f]{1,2}){5}|` +
		`[0-9A-Fa-f]{1,2}(\.[0-9A-Fa-f]{1,2}){5}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2}`)},
	{tokIPv4, longest(`[0-9]+(\.[0-9]+){1,3}`)},
	{tokIPv6, longest(`[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}((\.[0-9]{1,3}){3})?`)},
	{tokName, longest(`[A-Za-z0-9]([-_.A-Za-z0-9]*[.A-Za-z0-9])?`)},
	{tokEscaped, longest(`\\[^ !()\n\t]+`)},
	{tokOp, longest(`&&|\|\||<<|>>|>=|<=|!=|==|[-!<>()\[\]+*/%&|^=:]`)},
}

// lex splits text into tokens; the last one is tokEnd.
func lex(text string) ([]token, error) {
	var out []token
	for pos := 0; ; {
		pos += len(text[pos:]) - len(strings.TrimLeft(text[pos:], " \t\r\n"))
		if pos == len(text) {
			return append(out, token{kind: tokEnd, pos: pos}), nil
		}
		best := token{pos: pos}
		for _, l := range lexemes {
			if m := l.re.FindString(text[pos:]); len(m) > len(best.text) {
				best.kind, best.text = l.kind, m
			}
		}
		if best.text == "" {
			return nil, &Error{text, pos, "unexpected character"}
		}
		pos += len(best.text)
		if err := classify(&best); err != "" {
			return nil, &Error{text, best.pos, err}
		}
		out = append(out, best)
	}
}

// classify gives a raw match its meaning: keywords, constants, numbers.
func classify(t *token) (problem string) {
	switch t.kind {
	case tokNumber:
		n, err := strconv.ParseUint(t.text, 0, 32)
		if err != nil {
			return "number is malformed or above 4294967295"
		}
		t.num = uint32(n)
	case tokIPv6:
		if _, err := netip.ParseAddr(t.text); err != nil {
			return "not an IPv6 address"
		}
	case tokEscaped:
		t.text = t.text[1:]
	case tokName:
		if n, ok := constants[t.text]; ok {
			t.kind, t.num = tokNumber, n
		} else if w, ok := keywords[t.text]; ok {
			t.kind, t.text = tokWord, w
		}
	case tokOp:
		switch t.text {
		case "==":
			t.text = "="
		case "&&":
			t.kind, t.text = tokWord, "and"
		case "||":
			t.kind, t.text = tokWord, "or"
		case "!":
			t.kind, t.text = tokWord, "not"
		}
	}
	return ""
}

// parseMAC reads any of the spellings the lexer accepts, also one-digit bytes.
func parseMAC(s string) (mac [6]byte) {
	if hw, err := net.ParseMAC(s); err == nil && len(hw) == 6 {
		return [6]byte(hw)
	}
	for i, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ':' || r == '-' || r == '.' }) {
		b, _ := strconv.ParseUint(part, 16, 8) // the lexer saw at most two hex digits
		mac[i] = byte(b)
	}
	return mac
}
