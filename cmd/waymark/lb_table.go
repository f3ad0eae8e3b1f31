// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"strconv"

	"waymark/nfqlb"
)

// Looking at the shared tables.

// lbDefaultShm is the table that commands mean if none is named.
const lbDefaultShm = "nfqlb"

// lbShowSlots is how much of the lookup table show prints.
const lbShowSlots = 25

func lbShow(args []string) error {
	f := lbFlags("show", "[--shm TABLE]")
	shm := f.String("shm", lbDefaultShm, "table")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	s, err := nfqlb.ReadShared(nfqlb.ShmDir, *shm)
	if err != nil {
		return err
	}
	fmt.Printf("Shm: %s\n  Fw: own=%d\n  Maglev: M=%d, N=%d\n   Lookup:", *shm, s.OwnFWMark, s.M, s.N)
	for _, index := range s.Lookup[:min(lbShowSlots, len(s.Lookup))] {
		fmt.Printf(" %d", index)
	}
	fmt.Print("...\n   Active:")
	for i, mark := range s.Active {
		if mark >= 0 {
			fmt.Printf(" %d(%d)", mark, i)
		}
	}
	fmt.Println()
	return nil
}

func lbFWMark(args []string) error {
	f := lbFlags("fwmark", `--src ADDR:PORT --dst ADDR:PORT [flags]

Without --proto the hash is that of the addresses alone, as for fragments
between balancers. The mark is printed if --shm is given.
  waymark lb fwmark --shm vips --proto tcp --src 20.0.0.7:40000 --dst 10.0.0.1:5000 --hash-mode 0
  waymark lb fwmark --proto udp --src '[2001::7]:40000' --dst '[1000::1:a00:1]:5000'
  waymark lb fwmark --src 20.0.0.7:0 --dst 10.0.0.1:0
`)
	shm := f.String("shm", "", "table")
	proto := f.String("proto", "", "tcp, udp or sctp")
	src := f.String("src", "", "source address and port")
	dst := f.String("dst", "", "destination address and port")
	mode := f.Int("hash-mode", int(nfqlb.HashSCTPPorts), "0: hash everything, 1: of SCTP hash the ports alone")
	if err := parseLB(f, args, "", "src", "dst"); err != nil {
		return err
	}
	from, err := netip.ParseAddrPort(*src)
	if err != nil {
		return fmt.Errorf("--src: %w", err)
	}
	to, err := netip.ParseAddrPort(*dst)
	if err != nil {
		return fmt.Errorf("--dst: %w", err)
	}
	numbers := map[string]uint8{"": 0, "tcp": 6, "udp": 17, "sctp": 132}
	number, ok := numbers[*proto]
	if !ok {
		return fmt.Errorf("--proto %q is not tcp, udp or sctp", *proto)
	}
	key := nfqlb.MakeKey(from.Addr(), to.Addr(), number, 0, from.Port(), to.Port())
	hash := key.Hash(nfqlb.HashMode(*mode))
	if *proto == "" {
		hash = key.HashAddresses()
	}
	if *shm == "" {
		fmt.Printf("{ \"hash\": %d }\n", hash)
		return nil
	}
	s, err := nfqlb.ReadShared(nfqlb.ShmDir, *shm)
	if err != nil {
		return err
	}
	slot := hash % uint32(s.M)
	index, mark := s.Lookup[slot], -1
	if index >= 0 && index < s.N {
		mark = s.Active[index]
	}
	fmt.Printf("{ \"hash\": %d, \"lookupindex\": %d, \"activeindex\": %d, \"fwmark\": %d }\n", hash, slot, index, mark)
	return nil
}

func lbPrimeBelow(args []string) error {
	f := lbFlags("primebelow", "N")
	if err := parseLB(f, args, "N"); err != nil {
		return err
	}
	n, err := strconv.Atoi(f.Arg(0))
	if f.NArg() != 1 || err != nil || n < 2 {
		return fmt.Errorf("primebelow needs one number from 2 on")
	}
	fmt.Println(nfqlb.PrimeBelow(n))
	return nil
}
