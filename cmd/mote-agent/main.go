// Command mote-agent is a worker node in one process: the kubelet, the service proxy and cluster DNS. `mote agent` is
// this program.
//
// Reads: flags. Writes: what the packages it wires together write.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/mote-edge/mote/agent/pki"
	"github.com/mote-edge/mote/cmd/internal/nodeproc"
	"github.com/mote-edge/mote/internal/footprint"
	"github.com/mote-edge/mote/internal/layout"
	"github.com/mote-edge/mote/internal/version"
)

// gcPercent trades a little processor time for a smaller heap while the node rests, and gcWorking the other way when it
// works; GOGC overrides both.
const gcPercent, gcWorking = 50, 200

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(130) // the operator insists
	}()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "mote agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		go footprint.Breathe(ctx, gcPercent, gcWorking)
	}
	dirs := layout.Default()
	var node nodeproc.Flags
	var server, token, tokenFile, clusterCIDR, serviceCIDR, domain string
	var standalone, showVersion bool
	f := pflag.NewFlagSet("mote agent", pflag.ContinueOnError)
	f.StringVar(&dirs.Data, "data-dir", dirs.Data, "state that survives a reboot")
	f.StringVar(&dirs.Run, "run-dir", dirs.Run, "sockets and state that a reboot clears")
	f.StringVar(&dirs.Config, "config-dir", dirs.Config, "the administrator's files")
	f.StringVar(&server, "server", os.Getenv("MOTE_SERVER"), "the cluster's API server, https://<host>:6443; needed for the first join")
	f.StringVar(&token, "token", os.Getenv("MOTE_TOKEN"), "join token, from `mote token create` on the server; needed for the first join")
	f.StringVar(&tokenFile, "token-file", "", "file with the join token, which then doesn't show in the process list")
	f.StringVar(&clusterCIDR, "cluster-cidr", "10.42.0.0/16", "range of the pods' addresses, as the server has it")
	f.StringVar(&serviceCIDR, "service-cidr", "10.43.0.0/16", "range of the Services' addresses, as the server has it")
	f.StringVar(&domain, "cluster-domain", "cluster.local", "DNS domain of the cluster, as the server has it")
	f.BoolVar(&standalone, "standalone", false, "run static pods alone, without a cluster")
	f.BoolVar(&showVersion, "version", false, "print the version")
	node.Register(f)
	f.StringVar(&node.ConfigFile, "config", "", "the same as --kubelet-config")
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case showVersion:
		fmt.Println(version.String())
		return nil
	case f.NArg() > 0:
		return fmt.Errorf("%q is not understood: this program takes flags alone (see --help)", f.Arg(0))
	case os.Getuid() != 0:
		return errors.New("a node needs root: it makes namespaces, mounts, cgroups and links")
	}
	klog.SetSlogLogger(slog.New(warnings{slog.Default().Handler()}))
	if err := dirs.Validate(); err != nil {
		return err
	}
	c, err := node.Config(dirs, clusterCIDR, serviceCIDR, domain)
	if err != nil {
		return err
	}
	if !standalone {
		if tokenFile != "" {
			b, err := os.ReadFile(tokenFile)
			if err != nil {
				return fmt.Errorf("--token-file: %w", err)
			}
			token = strings.TrimSpace(string(b))
		}
		c.Agent.REST, err = pki.Join(ctx, pki.JoinConfig{Server: server, Token: token, NodeName: c.Agent.NodeName, Dir: filepath.Join(dirs.Agent(), "pki")})
		if err != nil {
			return err
		}
	}
	go footprint.Settle(ctx, 5*time.Second)
	return nodeproc.Run(ctx, "agent", c)
}

// warnings lets through what Kubernetes' libraries think worth a warning.
type warnings struct{ slog.Handler }

func (h warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && h.Handler.Enabled(ctx, l)
}
func (h warnings) WithAttrs(a []slog.Attr) slog.Handler { return warnings{h.Handler.WithAttrs(a)} }
func (h warnings) WithGroup(g string) slog.Handler      { return warnings{h.Handler.WithGroup(g)} }
