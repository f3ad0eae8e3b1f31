// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"waymark/decoder"
)

const exportHelp = `usage: waymark export [--format pcapng|pcap] [--dir DIR] FILE
       waymark export --format json FILE
       waymark export --html PAGE FILE

Turns a recording into one plain capture file per device, prints its journeys
as JSON, or makes one page of it to look at in a browser: the namespaces with
their devices, each packet's way through them, and what happened there.

examples:
  waymark export vip.pcapng
  waymark export --format pcap --dir /tmp/vip vip.pcapng
  waymark export --format json vip.pcapng
  waymark export --html vip.html vip.pcapng

`

func runExport(args []string) error {
	fs := newFlags("export", exportHelp)
	format := fs.String("format", "pcapng", "pcapng, pcap or json")
	dir := fs.String("dir", ".", "`DIR` for the files, made if it is not there")
	page := fs.String("html", "", "make one page, `PAGE`, instead; it needs no network")
	if err := parseFlags(fs, args, 1); err != nil {
		return err
	}
	if fs.NArg() == 0 {
		return errors.New("export needs a recording: waymark export FILE")
	}
	if *page != "" {
		if fs.Changed("format") || fs.Changed("dir") {
			return errors.New("--html makes one page: leave out --format and --dir")
		}
		return exportHTML(fs.Arg(0), *page)
	}
	switch *format {
	case "json":
		return replay(fs.Args(), os.Stdout, replayOptions{output: "json"})
	case "pcapng", "pcap":
	default:
		return fmt.Errorf("--format %s: choose pcapng, pcap or json", *format)
	}
	f, err := os.Open(fs.Arg(0))
	if err != nil {
		return fmt.Errorf("open the recording: %w", err)
	}
	defer f.Close()
	result, err := decoder.ExportDir(f, decoder.ExportFormat(*format), *dir)
	if err != nil {
		return fmt.Errorf("%s: %w", fs.Arg(0), err)
	}
	fmt.Printf("%d packets in %d files in %s\n", result.Packets, result.Files, *dir)
	if result.Truncated {
		fmt.Fprintf(os.Stderr, "waymark: %s is cut off: exported up to there\n", fs.Arg(0))
	}
	return nil
}
