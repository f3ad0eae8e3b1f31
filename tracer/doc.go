// SPDX-License-Identifier: Apache-2.0

// Package tracer gets what the kernel sees out of it: it finds out which
// hooks this kernel has, loads the programs of package bpf with the filter
// spliced in, attaches them to devices as these appear, and turns the ring
// buffer into one stream of records and context for a decoder.Sink.
//
// It refuses to interpret: what a record means is package decoder's.
package tracer
