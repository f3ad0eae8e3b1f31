// SPDX-License-Identifier: Apache-2.0

// Package decoder is understanding: it turns the kernel's records into hops,
// hops into journeys, journeys into flows, explains every decision a packet
// met on its way, and prints the result as text or JSON.
//
// Its only input is a stream of records and contexts (see [Sink]) and its only
// clock is theirs, so a live trace and the replay of its recording are the
// same code and give the same output on any operating system.
//
// It refuses to ask the kernel, the file system or the network anything: what
// an explanation needs must be in the stream. It imports package bpf for the
// record's layout and nothing else of waymark; the balancer's arithmetic comes
// in through [LBDecider].
package decoder
