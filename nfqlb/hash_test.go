// SPDX-License-Identifier: Apache-2.0

package nfqlb

import (
	"math/rand/v2"
	"testing"
)

// The hash in words is the hash byte by byte.
func TestHashIsDjb2(t *testing.T) {
	plain := func(b []byte) uint32 {
		h := uint32(5381)
		for _, c := range b {
			h = h*33 + uint32(c)
		}
		return h
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 10000 {
		var k Key
		for j := range k {
			if k[j] = byte(r.Uint32()); i%4 == 0 {
				k[j] |= 0xfe // carries everywhere
			}
		}
		if i%2 == 0 {
			k.setProto(protoSCTP)
		}
		want := plain(k[:])
		if got := k.Hash(HashTuple); got != want {
			t.Fatalf("%x: %d, want %d", k, got, want)
		}
		if k.Proto() == protoSCTP {
			want = plain(k[36:])
		}
		if got := k.Hash(HashSCTPPorts); got != want {
			t.Fatalf("%x: SCTP %d, want %d", k, got, want)
		}
		if got, want := k.HashAddresses(), plain(k[:32]); got != want {
			t.Fatalf("%x: addresses %d, want %d", k, got, want)
		}
	}
}
