// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

const extcapHelp = `usage: waymark extcap --lua
       waymark extcap --capture --extcap-interface waymark --fifo FIFO [flags]

A capture interface of Wireshark's: linked into the directory that
"tshark -G folders" calls Extcap path, waymark is among the interfaces. Capture
filters are five-tuples or pcap-filter(7) expressions. --lua prints a script
that makes waymark's marks, hops and journeys fields to filter by.

examples:
  ln -s "$(command -v waymark)" /usr/lib/x86_64-linux-gnu/wireshark/extcap/
  tshark -i waymark -f 'tcp any 10.0.0.1:5000' -c 20
  waymark extcap --lua > ~/.local/lib/wireshark/plugins/waymark.lua

`

// calledByWireshark tells whether args are those of an extcap.
func calledByWireshark(args []string) bool {
	return len(args) > 0 && (strings.HasPrefix(args[0], "--extcap-") || args[0] == "--capture")
}
