// Command labctl starts and ends a lab: labctl [flags] up|down. After up it prints how to use the cluster.
//
// Reads: flags. Writes: what package lab writes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mote-edge/mote/test/lab"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var cfg lab.Config
	var images, args string
	flag.StringVar(&cfg.Name, "name", "lab", "prefix of namespaces and cgroups")
	flag.StringVar(&cfg.Dir, "dir", "/var/tmp/mote-lab", "directory of the nodes")
	flag.StringVar(&cfg.Bin, "bin", "bin", "directory of Mote's programs")
	flag.StringVar(&cfg.Subnet, "subnet", "10.99.0", "first three octets of the nodes' network")
	flag.IntVar(&cfg.Workers, "workers", 2, "nodes besides the server")
	flag.IntVar(&cfg.Bare, "bare", 0, "machines after the workers, with a network and namespaces and nothing running")
	flag.BoolVar(&cfg.NoNode, "no-node", false, "the server runs no node of its own")
	flag.StringVar(&images, "images", "", "pattern of archives that every node imports")
	flag.StringVar(&args, "args", "", "further flags of every node, separated by spaces")
	flag.Parse()
	cfg.Args = strings.Fields(args)
	var err error
	if cfg.Bin, err = filepath.Abs(cfg.Bin); err != nil {
		return err
	}
	if images != "" {
		if cfg.Images, err = filepath.Glob(images); err != nil {
			return fmt.Errorf("-images %q: %w", images, err)
		}
	}
	switch flag.Arg(0) {
	case "up":
		l, err := lab.Up(ctx, cfg)
		if err != nil {
			return err
		}
		fmt.Printf("the lab is up: %d nodes, logs in %s/n*/node.log\n", len(l.Nodes), cfg.Dir)
		fmt.Printf("use it with: nsenter --net=%s kubectl --kubeconfig %s get nodes\n", l.Switch(), l.Kubeconfig())
		return nil
	case "down":
		return lab.Attach(cfg).Down(ctx)
	}
	return fmt.Errorf("labctl [flags] up|down: %q is neither", flag.Arg(0))
}
