// SPDX-License-Identifier: Apache-2.0

// Package scenarios builds known worlds: small networks of namespaces with a
// real balancer, real routing rules and real servers, which can be broken in
// named ways and repaired again.
//
// A world is called a lab. Its devices, addresses, rules and routes are one
// table (plan), its faults another (Fault); code only walks them. Each fault
// says which question it stands for and what an observer must find, so the
// same row drives the command, the tests and the page that lists the faults.
//
// Everything is built over netlink and /proc/sys. The package runs no shell and
// no ip, nft or iptables binary, never touches a device outside the namespaces
// it made, never kills a process it did not start, and does not observe the
// packets: that is the tracer's work.
//
// It needs Linux and the right to create network namespaces.
package scenarios
