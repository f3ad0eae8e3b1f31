// SPDX-License-Identifier: Apache-2.0

package nfqlb

// A balancer can be replaced by a new process while packets come: the new one
// asks for it on the control socket, and gets the flows, the open sockets, and
// at last the counters. The queues' sockets change hands like the others, and
// to the kernel nothing happened; packets that come meanwhile wait in them.
//
//	new → old   the command takeover
//	old → new   OK and a newline, all descriptors with it; a takeoverOffer
//	new → old   takeoverStep: it has the flows in place and is ready to serve
//	old → new   takeoverState: it has given all its verdicts and reads no more
//	new → old   takeoverStep: it has the state
//	old → new   takeoverStep: it will not serve again
//
// All after the OK is JSON. Whatever fails before the last message, and be it
// that the new process dies, leaves the old one serving as before.

const (
	takeoverAction  = "takeover"
	takeoverVersion = 1
	takeoverOK      = "OK\n"
)
