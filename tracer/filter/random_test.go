// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// randomExpressions are combinations nobody thought of, the same every time.
func randomExpressions() []string {
	r := rand.New(rand.NewPCG(20261120, 1))
	var out []string
	for len(out) < 120 {
		e := randomExpression(r, 3)
		if _, err := Parse([]string{e}); err == nil || !strings.Contains(err.Error(), divisionByZero) {
			out = append(out, e)
		}
	}
	return out
}

func randomExpression(r *rand.Rand, depth int) string {
	sub := func() string { return randomExpression(r, depth-1) }
	if depth == 0 {
		simple := []string{
			"tcp", "udp", "ip6", "icmp", "arp", "host 10.0.0.1", "src net 20.0.0.0/8", "dst port 5000", "port 80 or 53", "udp src port 53",
			"portrange 1000-6000", "ip6 host 2001:db8::1", "net 2001:db8::/32", "proto 132", "vlan", "vlan 5", "multicast", "ip multicast",
		}
		if r.IntN(2) == 0 {
			return simple[r.IntN(len(simple))]
		}
		relations := []string{"=", "!=", "<", ">", "<=", ">="}
		return randomArith(r, 2) + " " + relations[r.IntN(len(relations))] + " " + randomArith(r, 1)
	}
	switch r.IntN(5) {
	case 0, 1:
		return "(" + sub() + ") and (" + sub() + ")"
	case 2, 3:
		return "(" + sub() + ") or (" + sub() + ")"
	}
	return "not (" + sub() + ")"
}

func randomArith(r *rand.Rand, depth int) string {
	protocols := []string{"ip", "ip6", "tcp", "udp", "icmp", "icmp6", "ether", "arp"}
	p := protocols[r.IntN(len(protocols))]
	size := []string{"", ":1", ":2", ":4"}[r.IntN(4)]
	switch n := r.IntN(8); {
	case depth == 0 && n < 4:
		return fmt.Sprint(1 + r.IntN(70))
	case depth == 0:
		return fmt.Sprintf("%s[%d%s]", p, r.IntN(24), size)
	case n < 2:
		return fmt.Sprintf("%s[%d%s]", p, r.IntN(24), size)
	case n == 2:
		return fmt.Sprintf("%s[%s & 0x1f%s]", p, randomArith(r, depth-1), size)
	case n == 3:
		return "len"
	case n == 4:
		return fmt.Sprintf("(%s %s %d)", randomArith(r, depth-1), []string{"<<", ">>"}[r.IntN(2)], r.IntN(31))
	}
	op := []string{"+", "-", "*", "/", "%", "&", "|", "^"}[r.IntN(8)]
	return "(" + randomArith(r, depth-1) + " " + op + " " + randomArith(r, depth-1) + ")"
}
