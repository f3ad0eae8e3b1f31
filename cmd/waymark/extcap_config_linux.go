// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"waymark/tracer"
	"waymark/tracer/place"
)

// extcapOption is one entry of Wireshark's dialog; name is a flag of the live
// commands.
type extcapOption struct {
	name, display, tooltip string
	more                   string // type and the like, in extcap(4)'s grammar
	values                 func() []extcapValue
}

// extcapValue is what may be ticked for an option.
type extcapValue struct {
	value, display string
	chosen         bool // unless the user says otherwise
}

func extcapOptions() []extcapOption {
	return []extcapOption{
		{name: "netns", display: "Network namespaces", tooltip: "None ticked: all that can be found", more: "{type=multicheck}", values: extcapNamespaces},
		{name: "interface", display: "Devices", tooltip: "Patterns, separated by commas", more: "{type=string}{placeholder=" + strings.Join(tracer.DefaultDevices, ",") + "}"},
		{name: "hooks", display: "Hooks", tooltip: "What is looked at besides devices", more: "{type=multicheck}", values: extcapHooks},
		{name: "journeys", display: "Tell journeys", tooltip: "Show packets when their journeys are over (half a second later), with outcome, rule and target", more: "{type=boolflag}{default=false}"},
		{name: "follow-reply", display: "Follow replies", tooltip: "Show the packets of the other direction as well", more: "{type=boolean}{default=true}"},
		{name: "payload", display: "Payload", tooltip: "Whether application data is captured, too", more: "{type=selector}", values: extcapPayloads},
		{name: "snaplen", display: "Bytes of each packet", tooltip: "How much of each packet to keep", more: "{type=unsigned}{range=14,16384}{default=96}"},
		{name: "budget", display: "Budget", tooltip: "Leave out hooks, then flows, to cost at most this much of one CPU", more: "{type=string}{placeholder=such as 2%}"},
		{name: "write", display: "Also record to", tooltip: "A file that waymark replay and export read", more: "{type=fileselect}{mustexist=false}"},
	}
}

func extcapPayloads() []extcapValue {
	return []extcapValue{{"headers", "headers alone", true}, {"full", "all", false}, {"off", "no bytes of packets", false}}
}

func extcapHooks() []extcapValue {
	var values []extcapValue
	for _, g := range tracer.Groups {
		values = append(values, extcapValue{value: g, display: g, chosen: slices.Contains(tracer.DefaultGroups, g)})
	}
	return values
}

// extcapNamespaces are those that can be found; without rights some cannot.
func extcapNamespaces() []extcapValue {
	all, err := place.Discover()
	if err != nil {
		return nil // there is then nothing to tick, and all are traced that can be
	}
	var values []extcapValue
	for _, ns := range all {
		v := extcapValue{value: ns.Path, display: ns.Name}
		if ns.Pod != "" {
			v.display = ns.Pod
		}
		values = append(values, v)
	}
	return values
}

func printExtcapConfig(w io.Writer) error {
	options := extcapOptions()
	for i, o := range options {
		fmt.Fprintf(w, "arg {number=%d}{call=--%s}{display=%s}{tooltip=%s}%s\n", i, o.name, o.display, o.tooltip, o.more)
	}
	for i, o := range options {
		o.print(w, i)
	}
	return nil
}

// printExtcapValues prints the values of one option anew. Wireshark calls it by
// its flag.
func printExtcapValues(w io.Writer, call string) error {
	name := strings.TrimLeft(call, "-")
	options := extcapOptions()
	i := slices.IndexFunc(options, func(o extcapOption) bool { return o.name == name })
	if i < 0 {
		return fmt.Errorf("there is no option %q; --extcap-config lists them", call)
	}
	options[i].print(w, i)
	return nil
}

func (o *extcapOption) print(w io.Writer, number int) {
	if o.values == nil {
		return
	}
	for _, v := range o.values() {
		if strings.ContainsAny(v.value, "{},\n\r") {
			continue // cannot be said in this grammar
		}
		fmt.Fprintf(w, "value {arg=%d}{value=%s}{display=%s}{default=%t}\n", number, v.value, strings.Map(plainInBraces, v.display), v.chosen)
	}
}

// plainInBraces replaces what would end a value of the grammar.
func plainInBraces(c rune) rune {
	if c < ' ' || c == '{' || c == '}' {
		return '_'
	}
	return c
}
