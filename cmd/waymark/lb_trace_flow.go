// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"waymark/nfqlb"
)

// The flows that pick packets for `lb trace --selection flows`, over the
// control socket.

func lbTraceFlowSet(args []string) error {
	f := lbFlags("trace-flow-set", `--name NAME [flags]

What is not given matches anything. Lists are separated by commas.
  waymark lb trace-flow-set --name client --srcs 20.0.0.7/32
  waymark lb trace-flow-set --name web --protocols tcp --dsts 10.0.0.1/32 --dports 80
  waymark lb trace-flow-set --name syn --protocols tcp --match 'tcp[12:2]&0x01ff=0x0002'
`)
	var spec nfqlb.FlowSpec
	f.StringVar(&spec.Name, "name", "", "name of the trace-flow: letters, digits and -+_")
	f.StringSliceVar(&spec.Protocols, "protocols", nil, "tcp, udp, sctp")
	f.StringSliceVar(&spec.Dests, "dsts", nil, "destination prefixes")
	f.StringSliceVar(&spec.Srcs, "srcs", nil, "source prefixes")
	f.StringSliceVar(&spec.DPorts, "dports", nil, "destination ports and ranges of ports")
	f.StringSliceVar(&spec.SPorts, "sports", nil, "source ports and ranges of ports")
	f.StringSliceVar(&spec.Match, "match", nil, "bytes of the transport header, like tcp[2:2]&0xff00=0x1300")
	if err := parseLB(f, args, "", "name"); err != nil {
		return err
	}
	if (len(spec.DPorts) > 0 || len(spec.SPorts) > 0) && len(spec.Protocols) == 0 {
		return fmt.Errorf("ports need --protocols")
	}
	ctx, cancel := context.WithTimeout(context.Background(), lbPatience)
	defer cancel()
	if err := nfqlb.SetTraceFlow(ctx, spec); err != nil {
		return lbControlError(err)
	}
	fmt.Println("OK")
	return nil
}

func lbTraceFlowDelete(args []string) error {
	f := lbFlags("trace-flow-delete", "--name NAME")
	name := f.String("name", "", "name of the trace-flow")
	if err := parseLB(f, args, "", "name"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lbPatience)
	defer cancel()
	if err := nfqlb.DeleteTraceFlow(ctx, *name); err != nil {
		return lbControlError(err)
	}
	fmt.Println("OK")
	return nil
}

func lbTraceFlowList(args []string) error {
	f := lbFlags("trace-flow-list", "[--name NAME]")
	name := f.String("name", "", "list this trace-flow alone")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	return lbPrintAnswer(&nfqlb.Command{Action: "trace-list", Flow: nfqlb.FlowSpec{Name: *name}})
}

func lbTraceFlowListNames(args []string) error {
	if err := parseLB(lbFlags("trace-flow-list-names", ""), args, ""); err != nil {
		return err
	}
	return lbPrintAnswer(&nfqlb.Command{Action: "trace-list-names"})
}
