// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"waymark/nfqlb"
)

// The flows of the running balancer, over its control socket.

// lbPatience is how long a balancer may take to answer.
const lbPatience = 10 * time.Second

func lbFlowSet(args []string) error {
	f := lbFlags("flow-set", `--name NAME --target TABLE [flags]

What is not given matches anything. Lists are separated by commas.
  waymark lb flow-set --name web --target vips --protocols tcp --dsts 10.0.0.1/32 --dports 80,443
  waymark lb flow-set --name all --target vips
  waymark lb flow-set --name sctp --target vips --protocols sctp --dports 6000 --udpencap 9899
`)
	var spec nfqlb.FlowSpec
	f.StringVar(&spec.Name, "name", "", "name of the flow: letters, digits and -+_")
	f.StringVar(&spec.Target, "target", "", "table with the flow's targets")
	f.IntVar(&spec.Priority, "prio", 0, "the highest priority that matches wins")
	f.StringSliceVar(&spec.Protocols, "protocols", nil, "tcp, udp, sctp")
	f.StringSliceVar(&spec.Dests, "dsts", nil, "destination prefixes")
	f.StringSliceVar(&spec.Srcs, "srcs", nil, "source prefixes")
	f.StringSliceVar(&spec.DPorts, "dports", nil, "destination ports and ranges of ports")
	f.StringSliceVar(&spec.SPorts, "sports", nil, "source ports and ranges of ports")
	f.StringSliceVar(&spec.Match, "match", nil, "bytes of the transport header, like tcp[2:2]&0xff00=0x1300")
	f.IntVar(&spec.UDPEncap, "udpencap", 0, "UDP port that brings encapsulated SCTP")
	if err := parseLB(f, args, "", "name", "target"); err != nil {
		return err
	}
	if (len(spec.DPorts) > 0 || len(spec.SPorts) > 0) && len(spec.Protocols) == 0 {
		return fmt.Errorf("ports need --protocols")
	}
	ctx, cancel := context.WithTimeout(context.Background(), lbPatience)
	defer cancel()
	if err := nfqlb.SetFlow(ctx, spec); err != nil {
		return lbControlError(err)
	}
	fmt.Println("OK")
	return nil
}

func lbFlowDelete(args []string) error {
	f := lbFlags("flow-delete", "--name NAME")
	name := f.String("name", "", "name of the flow")
	if err := parseLB(f, args, "", "name"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lbPatience)
	defer cancel()
	if err := nfqlb.DeleteFlow(ctx, *name); err != nil {
		return lbControlError(err)
	}
	fmt.Println("OK")
	return nil
}

func lbFlowList(args []string) error {
	f := lbFlags("flow-list", "[--name NAME]")
	name := f.String("name", "", "list this flow alone")
	if err := parseLB(f, args, ""); err != nil {
		return err
	}
	return lbPrintAnswer(&nfqlb.Command{Action: "list", Flow: nfqlb.FlowSpec{Name: *name}})
}

func lbFlowListNames(args []string) error {
	if err := parseLB(lbFlags("flow-list-names", ""), args, ""); err != nil {
		return err
	}
	return lbPrintAnswer(&nfqlb.Command{Action: "list-names"})
}

func lbPrintAnswer(cmd *nfqlb.Command) error {
	ctx, cancel := context.WithTimeout(context.Background(), lbPatience)
	defer cancel()
	answer, err := nfqlb.Do(ctx, cmd)
	if err != nil {
		return lbControlError(err)
	}
	_, err = os.Stdout.Write(answer)
	return err
}

// lbControlError gives a missing balancer its exit code.
func lbControlError(err error) error {
	if errors.Is(err, nfqlb.ErrNoBalancer) {
		return unsupported(err)
	}
	return problem(err)
}
