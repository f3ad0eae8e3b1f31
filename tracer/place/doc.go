// SPDX-License-Identifier: Apache-2.0

// Package place knows where a packet can be: the network namespaces of this
// machine under the names people use for them, their devices, addresses,
// rules of routing and of netfilter, routes, queues, and when any of these change.
//
// It only reads. It attaches nothing and changes nothing.
package place
