// SPDX-License-Identifier: Apache-2.0

// Package vm runs static (or ordinary) Linux programs, Go test binaries above
// all, inside stock Debian kernels under qemu, so that kprobes, IPVS and the
// nft queue are exercised on the kernels people run and not only on the one
// under the developer's desk.
//
// The guest has no distribution in it: an initramfs with the kernel's own
// networking modules, the payload, and the program that started the machine,
// which is copied into the guest and plays init and modprobe there. Such a
// program calls [GuestMain] first thing in its main.
//
// Host and guest talk frames over the second serial port: output as it comes,
// collected files, and at the end the exit status. Only that last frame makes a
// run count as ended by the payload: a guest that panics lets qemu exit with 0,
// which therefore never means success. See [Outcome]. What the payload printed in
// the very last moment before a panic may be lost with the guest; the kernel's
// log is not.
//
// It refuses to build or patch kernels, to share a file system with the host,
// to give the guest a network to the outside, and to guess: a kernel it cannot
// fetch or a machine that goes silent is an error with a reason.
package vm

// DebianPackages are what the host needs beyond a minimal Debian; apt-get and
// dpkg-deb are there already. The Makefile installs them.
var DebianPackages = []string{"qemu-system-x86", "xz-utils"}
