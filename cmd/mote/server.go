package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/mote-edge/mote/cmd/internal/nodeproc"
	"github.com/mote-edge/mote/controlplane"
	"github.com/mote-edge/mote/internal/footprint"
	"github.com/mote-edge/mote/internal/layout"
)

// gcPercent trades a little processor time for a smaller heap while the cluster rests, and gcWorking the other way when it
// works; GOGC overrides both.
const gcPercent, gcWorking = 50, 200

func serverCommand(dirs *layout.Dirs) *cobra.Command {
	var (
		cfg         controlplane.Config
		advertise   net.IP
		serviceCIDR string
		nodePorts   string
		clusterCIDR string
		node        nodeproc.Flags
		noAgent     bool
	)
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane, and this machine's node beside it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getenv("GOGC") == "" {
				debug.SetGCPercent(gcPercent)
				go footprint.Breathe(cmd.Context(), gcPercent, gcWorking)
			}
			footprint.RespectCgroup()
			quietLibraries()
			cfg.Dirs = *dirs
			cfg.API.AdvertiseAddress = advertise
			var err error
			if cfg.ClusterCIDR, err = netip.ParsePrefix(clusterCIDR); err != nil {
				return fmt.Errorf("--cluster-cidr %q is not a range: give one like 10.42.0.0/16", clusterCIDR)
			}
			if err := parseServerFlags(&cfg, serviceCIDR, nodePorts); err != nil {
				return err
			}
			nodeConfig, err := node.Config(*dirs, clusterCIDR, serviceCIDR, cfg.API.ClusterDomain)
			if err != nil {
				return err
			}
			s, err := controlplane.New(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return runServer(cmd.Context(), s, nodeConfig, noAgent)
		},
	}
	f := c.Flags()
	node.Register(f)
	f.BoolVar(&noAgent, "disable-agent", false, "run the control plane alone: this machine takes no pods")
	f.StringVar(&cfg.API.BindAddress, "bind-address", "", "address to listen on (default all)")
	f.IntVar(&cfg.API.Port, "secure-port", 6443, "port of the API server")
	f.IPVar(&advertise, "advertise-address", nil, "address at which nodes and pods reach the API server (default that of the default route)")
	f.StringSliceVar(&cfg.API.Hosts, "tls-san", nil, "further names and addresses for the API server's certificate")
	f.StringVar(&serviceCIDR, "service-cidr", "10.43.0.0/16", "range of the Services' addresses")
	f.StringVar(&clusterCIDR, "cluster-cidr", "10.42.0.0/16", "range of the pods' addresses; each node gets a /24 of it")
	f.StringVar(&nodePorts, "service-node-port-range", "30000-32767", "range of the Services' node ports")
	f.StringVar(&cfg.API.ClusterDomain, "cluster-domain", "cluster.local", "DNS domain of the cluster")
	f.StringVar(&cfg.API.Issuer, "service-account-issuer", "", "issuer of service-account tokens (default https://kubernetes.default.svc.<cluster domain>)")
	f.DurationVar(&cfg.API.EventTTL, "event-ttl", 0, "how long events are kept (default 1h)")
	f.BoolVar(&cfg.API.Fairness, "enable-priority-and-fairness", false, "API priority and fairness instead of a plain limit of concurrent requests")
	f.StringSliceVar(&cfg.API.DisablePlugins, "disable-admission-plugins", nil, "admission plugins to leave out")
	f.BoolVar(&cfg.API.Profiling, "profiling", false, "serve /debug/pprof to those whom RBAC lets")
	cfg.API.AnonymousAuth = f.Bool("anonymous-auth", true, "let requests without credentials through to authorization")
	f.StringSliceVar(&cfg.Etcd.Servers, "etcd-servers", nil, "URLs of an external etcd cluster (default: an embedded one)")
	f.StringVar(&cfg.Etcd.CAFile, "etcd-cafile", "", "authority of the external etcd's certificates")
	f.StringVar(&cfg.Etcd.CertFile, "etcd-certfile", "", "client certificate for the external etcd")
	f.StringVar(&cfg.Etcd.KeyFile, "etcd-keyfile", "", "key of the client certificate for the external etcd")
	f.DurationVar(&cfg.Etcd.CompactInterval, "etcd-compaction-interval", 0, "how much history is kept (default 5m)")
	f.Int64Var(&cfg.Etcd.QuotaBytes, "etcd-quota-backend-bytes", 0, "bound of the embedded database (default 2 GiB)")
	return c
}

// livezWithin is how long the API server may take to say that it lives.
const livezWithin = 10 * time.Second

// errStopped ends the program after what went wrong has been said.
var errStopped = errors.New("stopped: the reason is above")

// runServer runs the control plane, and the node beside it. If one of them fails the other is stopped, which takes a
// moment; what went wrong is said before that.
func runServer(ctx context.Context, s *controlplane.Server, node nodeproc.Config, noAgent bool) error {
	g, ctx := errgroup.WithContext(ctx)
	part := func(name string, run func() error) {
		g.Go(func() error {
			err := run()
			if err != nil && ctx.Err() == nil {
				slog.ErrorContext(ctx, name+" failed, stopping", "error", err)
				return errStopped
			}
			return err
		})
	}
	part("the control plane", func() error { return s.Run(ctx) })
	if !noAgent {
		part("the node", func() error { return runNode(ctx, s, node) }) // which tells systemd of both
	} else {
		part("systemd's notification", func() error {
			return node.Agent.Systemd.Tell(ctx, s.Ready(), func() error { return livez(ctx, s) }, slog.Default())
		})
	}
	return g.Wait()
}

// livez asks the API server whether it lives.
func livez(ctx context.Context, s *controlplane.Server) error {
	ctx, cancel := context.WithTimeout(ctx, livezWithin)
	defer cancel()
	return s.API().Client().Discovery().RESTClient().Get().AbsPath("/livez").Do(ctx).Error()
}

func parseServerFlags(cfg *controlplane.Config, serviceCIDR, nodePorts string) error {
	_, cidr, err := net.ParseCIDR(serviceCIDR)
	if err != nil {
		return fmt.Errorf("--service-cidr %q is not a range: give one like 10.43.0.0/16", serviceCIDR)
	}
	cfg.API.ServiceCIDR = cidr
	first, last, ok := strings.Cut(nodePorts, "-")
	a, err1 := strconv.Atoi(first)
	b, err2 := strconv.Atoi(last)
	if !ok || errors.Join(err1, err2) != nil || a < 1 || b < a || b > 65535 {
		return fmt.Errorf("--service-node-port-range %q is not a range: give one like 30000-32767", nodePorts)
	}
	cfg.API.NodePortFirst, cfg.API.NodePortCount = a, b-a+1
	return nil
}

// quietLibraries sends what Kubernetes' libraries log to our own log, warnings and up: at info they tell of every
// controller that starts.
func quietLibraries() {
	h := levelHandler{slog.Default().Handler(), slog.LevelWarn}
	klog.SetSlogLogger(slog.New(h))
}

type levelHandler struct {
	slog.Handler
	min slog.Level
}

func (h levelHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.min && h.Handler.Enabled(ctx, l)
}

func (h levelHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return levelHandler{h.Handler.WithAttrs(a), h.min}
}

func (h levelHandler) WithGroup(g string) slog.Handler {
	return levelHandler{h.Handler.WithGroup(g), h.min}
}
