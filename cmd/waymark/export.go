// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"waymark/decoder"
)

const exportHelp = `usage: waymark export [--by device|flow] [--format pcapng|pcap] [--dir DIR] FILE
       waymark export --format json FILE
       waymark export --html PAGE FILE...
       waymark export --annotate COPY FILE

Turns a recording into one plain capture file per device or per flow, prints its
journeys as JSON, makes one page to look at in a browser (the namespaces with
their devices, each packet's way, what happened there), or a copy for Wireshark
whose packets' comments tell their journeys.

examples:
  waymark export vip.pcapng
  waymark export --by flow --format pcap --dir /tmp/vip vip.pcapng
  waymark export --annotate told.pcapng vip.pcapng
  waymark export --html vip.html node1.pcapng node2.pcapng

`

func runExport(args []string) error {
	fs := newFlags("export", exportHelp)
	format := fs.String("format", "pcapng", "pcapng, pcap or json")
	dir := fs.String("dir", ".", "`DIR` for the files, made if it is not there")
	by := fs.String("by", "device", "one file per device, or per flow")
	page := fs.String("html", "", "make one page, `PAGE`, instead; it needs no network")
	annotated := fs.String("annotate", "", "make one capture, `COPY`, with journeys in comments, instead; it replays too")
	expr := fs.String("filter", "", "with --html, --by flow or json: only journeys that match `FILTER`, as replay has it")
	if err := parseFlags(fs, args, -1); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("export needs a recording: waymark export FILE")
	}
	if fs.NArg() > 1 && *page == "" {
		return fmt.Errorf("unexpected argument %q: only --html takes several recordings", fs.Arg(1))
	}
	if *by != "device" && *by != "flow" {
		return fmt.Errorf("--by %s: choose device or flow", *by)
	}
	one := *page != "" || *annotated != ""
	if one && (fs.Changed("format") || fs.Changed("dir") || fs.Changed("by") || *page != "" && *annotated != "") {
		return errors.New("--html and --annotate make one file: leave out --format, --dir, --by and the other one")
	}
	o := replayOptions{output: "json"}
	if err := o.parse(*expr, true, nil, "", "max"); err != nil {
		return err
	}
	if o.filter != nil && (*annotated != "" || *page == "" && *by == "device" && *format != "json") {
		return errors.New("--filter chooses journeys: use it with --html, --by flow or --format json")
	}
	switch {
	case *page != "":
		return exportHTML(fs.Args(), *page, o)
	case *annotated != "":
		return exportAnnotated(fs.Arg(0), *annotated)
	}
	switch *format {
	case "json":
		return replay(fs.Args(), os.Stdout, o)
	case "pcapng", "pcap":
		return exportFiles(fs.Arg(0), *dir, *by == "flow", decoder.ExportFormat(*format), o)
	}
	return fmt.Errorf("--format %s: choose pcapng, pcap or json", *format)
}

// exportFiles writes plain captures. For those of flows the recording is read
// twice at the same time: for the packets, and for the journeys they belong to.
func exportFiles(recording, dir string, flows bool, format decoder.ExportFormat, o replayOptions) error {
	f, err := openSource(recording)
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	defer f.Close()
	options := decoder.ExportOptions{Format: format}
	if flows {
		told, err := openSource(recording)
		if err != nil {
			return fmt.Errorf("open the recording: %w", err)
		}
		defer told.Close()
		options.Flows = decoder.Merge([]*decoder.Recording{{In: told, Options: o.decoder()}})
	}
	result, err := decoder.ExportDir(f, options, dir)
	if err != nil {
		return fmt.Errorf("%s: %w", recording, err)
	}
	fmt.Printf("%d packets in %d files in %s\n", result.Packets, result.Files, dir)
	if result.Truncated {
		fmt.Fprintf(os.Stderr, "waymark: %s is cut off: exported up to there\n", recording)
	}
	return nil
}
