// SPDX-License-Identifier: Apache-2.0

// Packet times: the unit is the interface's to choose.

package pcapng

import (
	"math/bits"
	"time"
)

// binaryResolution marks if_tsresol as a power of two.
const binaryResolution = 0x80

// Time is the wall clock time of a packet time on this interface, exact to
// the nanosecond (finer units are cut).
func (i *Interface) Time(ticks uint64) time.Time {
	exp := uint(i.TSResol &^ binaryResolution)
	sec, nsec := decimalTime(ticks, exp)
	if i.TSResol&binaryResolution != 0 {
		sec, nsec = binaryTime(ticks, exp)
	}
	return time.Unix(int64(sec)+i.TSOffset, int64(nsec)).UTC()
}

// decimalTime splits ticks of 10^-exp s.
func decimalTime(ticks uint64, exp uint) (sec, nsec uint64) {
	if exp <= 19 { // 10^19 is the largest power in 64 bits
		unit := pow10(exp)
		sec, ticks = ticks/unit, ticks%unit
	}
	switch {
	case exp <= 9:
		return sec, ticks * pow10(9-exp)
	case exp-9 <= 19:
		return sec, ticks / pow10(exp-9)
	}
	return sec, 0
}

// binaryTime splits ticks of 2^-exp s.
func binaryTime(ticks uint64, exp uint) (sec, nsec uint64) {
	if exp < 64 {
		sec, ticks = ticks>>exp, ticks&(1<<exp-1)
	}
	hi, lo := bits.Mul64(ticks, uint64(time.Second))
	if exp >= 64 {
		return sec, hi >> (exp - 64)
	}
	return sec, hi<<(64-exp) | lo>>exp
}

func pow10(n uint) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}
