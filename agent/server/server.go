// Package server is the node API on port 10250: logs, exec, attach and port-forward for the API server's proxy, the pods,
// statistics and metrics for monitoring; and the health check on localhost. Every request is authenticated and authorized
// as a subresource of the Node, as kubelets do.
//
// Reads:  pods, the runtime's picture of them, cgroups, log files; TokenReviews and SubjectAccessReviews.
// Writes: nothing; commands in containers run at the caller's word.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/cgroup"
	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/meter"
	"github.com/mote-edge/mote/internal/version"
)

// Pods are the pods of this node. The objects are shared and must not be changed.
type Pods interface {
	Pods() []*corev1.Pod
	// Pod returns a pod by name with its newest status.
	Pod(namespace, name string) (*corev1.Pod, bool)
	Cache() *cri.Cache
}

// Runtime is what the node API asks of the container runtime.
type Runtime interface {
	Exec(ctx context.Context, in *runtimeapi.ExecRequest, opts ...grpc.CallOption) (*runtimeapi.ExecResponse, error)
	Attach(ctx context.Context, in *runtimeapi.AttachRequest, opts ...grpc.CallOption) (*runtimeapi.AttachResponse, error)
	PortForward(ctx context.Context, in *runtimeapi.PortForwardRequest, opts ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error)
	ExecSync(ctx context.Context, in *runtimeapi.ExecSyncRequest, opts ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error)
}

// Usage reads the counters of cgroups.
type Usage interface {
	Usage(cgroup string) (cgroup.Usage, error)
	PodPath(pod *corev1.Pod) string
}

// Config is what the node API serves and whom it serves.
type Config struct {
	NodeName string
	Address  string // host:port of the node API, ":10250"
	Health   string // host:port of the plain health check, "127.0.0.1:10248"; empty serves none
	// Certificate is the serving certificate; ClientCAs vouch for clients with certificates.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	ClientCAs   *x509.CertPool
	Reviews     Reviews // nil: client certificates of system:masters alone are let in
	// TLS has the versions, ciphers and curves; nil means Go's own from TLS 1.2 on.
	TLS *tls.Config
	// Anonymous lets requests without credentials through to authorization; NoTokens knows certificates alone; AllowAll asks
	// nobody what those may do that are known.
	Anonymous, NoTokens, AllowAll   bool
	TokenTTL, AllowedTTL, DeniedTTL time.Duration // how long answers hold; 0 means two minutes, five minutes, 30 seconds
	// NoDebugging leaves out exec, attach, port-forward, logs and the lists of pods; NoSystemLogs leaves out /logs/.
	NoDebugging, NoSystemLogs bool
	LogQueries                bool // /logs/?query= asks the journal

	Pods      Pods
	Runtime   Runtime
	Usage     Usage
	PodLogDir string
	NodeLogs  string // what /logs/ serves, "/var/log"
	DataDir   string // whose file system is reported
	Configz   any    // what /configz shows
	Capacity  func() corev1.ResourceList
	Healthy   func() error // what keeps the node agent from its work; nil means nothing can
	// Detail reads what cAdvisor's metrics have beyond Usage; Sandboxes asks the runtime for its statistics; Volumes says what
	// a pod's volumes hold, Logs what a container's log files take. All may be nil.
	Detail    func(cgroup string) cgroup.Detail
	Sandboxes func(ctx context.Context) ([]*runtimeapi.PodSandboxStats, error)
	Volumes   func(pod *corev1.Pod) []stats.VolumeStats
	Logs      func(dir string) (bytes, inodes uint64)
	Links     func(cgroup string) []cgroup.Link // the network interfaces that a container sees; nil: unknown
	System    map[string]string                 // cgroups that the summary shows as system containers, by name
	Tally     *meter.Tally                      // counts requests; nil counts nothing
	// Metrics adds to /metrics, Probes makes /metrics/probes; both may be nil.
	Metrics func(*Metrics)
	Probes  func(*Metrics)
	Log     *slog.Logger
}

// Server is the node API.
type Server struct {
	cfg     Config
	auth    *guard
	started time.Time
	samples samples
}

// New prepares the node API. It opens no port.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.NodeLogs == "" {
		cfg.NodeLogs = "/var/log"
	}
	return &Server{cfg: cfg, auth: newGuard(&cfg), started: time.Now()}
}

// Run serves until ctx ends. It fails at once if a port is in use.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(ctx, s.cfg.Address)
	if err != nil {
		return fmt.Errorf("node API: %w", err)
	}
	api := &http.Server{
		Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 90 * time.Second, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		TLSConfig:   s.tls(),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	failed := make(chan error, 2)
	go func() { failed <- api.ServeTLS(l, "", "") }()
	servers := []*http.Server{api}
	if s.cfg.Health != "" {
		hl, err := listen(ctx, s.cfg.Health)
		if err != nil {
			_ = api.Close()
			return fmt.Errorf("health check: %w", err)
		}
		health := &http.Server{Handler: http.HandlerFunc(s.healthz), ReadHeaderTimeout: 10 * time.Second}
		servers = append(servers, health)
		go func() { failed <- health.Serve(hl) }()
	}
	defer func() {
		for _, srv := range servers {
			_ = srv.Close() // open streams end with the agent
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("node API: %w", err)
	}
}

func (s *Server) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.cfg.TLS != nil {
		c = s.cfg.TLS.Clone()
	}
	c.GetCertificate, c.NextProtos = s.cfg.Certificate, []string{"h2", "http/1.1"}
	c.ClientAuth, c.ClientCAs = tls.RequestClientCert, s.cfg.ClientCAs // verified in authenticate, where other ways in are known too
	return c
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: is another kubelet running on this machine?", err)
	}
	return l, nil
}

// Handler is the node API without its transport.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, h http.HandlerFunc) { mux.HandleFunc(pattern, s.counted(pattern, h)) }
	handle("GET /healthz", s.healthz)
	handle("GET /healthz/{check}", s.healthz)
	handle("GET /statusz", s.statusz)
	handle("GET /pods", s.pods)
	handle("GET /pods/", s.pods)
	handle("GET /stats/summary", s.summary)
	handle("GET /metrics", s.metrics)
	handle("GET /metrics/cadvisor", s.metricsCadvisor)
	handle("GET /metrics/resource", s.metricsResource)
	handle("GET /metrics/probes", s.metricsProbes)
	if !s.cfg.NoDebugging {
		handle("GET /runningpods/", s.runningPods)
		handle("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
		for _, method := range []string{"GET", "POST"} {
			handle(method+" /exec/{namespace}/{pod}/{container}", s.exec)
			handle(method+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
			handle(method+" /attach/{namespace}/{pod}/{container}", s.attach)
			handle(method+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
			handle(method+" /portForward/{namespace}/{pod}", s.portForward)
			handle(method+" /portForward/{namespace}/{pod}/{uid}", s.portForward)
		}
		handle("POST /run/{namespace}/{pod}/{container}", s.run)
		handle("POST /run/{namespace}/{pod}/{uid}/{container}", s.run)
		handle("GET /configz", s.configz)
		if !s.cfg.NoSystemLogs {
			mux.Handle("GET /logs/", s.systemLogs())
		}
	}
	return s.auth.protect(mux)
}

func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Healthy != nil {
		if err := s.cfg.Healthy(); err != nil {
			http.Error(w, "[-]syncloop failed: "+err.Error()+"\nhealthz check failed", http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok"))
}

// statusz is what the program is and since when, for people (KEP-4827).
func (s *Server) statusz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	up := time.Since(s.started)
	_, _ = fmt.Fprintf(w, "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\n"+
		"Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\n\nPaths: /configz /healthz /metrics\n",
		s.started.UTC().Format(time.RFC1123), int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60, runtime.Version(), version.GitVersion())
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.cfg.Pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	writeJSON(w, list)
}

// runningPods lists what the runtime runs, whatever the API server knows of it.
func (s *Server) runningPods(w http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, p := range s.cfg.Pods.Cache().All() {
		if !p.Running() {
			continue
		}
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID, Namespace: p.Namespace, Name: p.Name}}
		for _, c := range p.Containers {
			if c.State == cri.Running {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
			}
		}
		list.Items = append(list.Items, pod)
	}
	writeJSON(w, list)
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": s.cfg.Configz})
}

func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

var (
	errNoPod       = errors.New("pod does not exist")
	errNoContainer = errors.New("container not found")
)

// container finds a container's newest attempt in the runtime.
func (s *Server) container(r *http.Request) (*corev1.Pod, *cri.Container, error) {
	pod, err := s.pod(r)
	if err != nil {
		return nil, nil, err
	}
	name := r.PathValue("container")
	observed := s.cfg.Pods.Cache().Get(pod.UID)
	c := observed.Latest(name)
	if c == nil {
		return nil, nil, fmt.Errorf("%w (%q)", errNoContainer, name)
	}
	return pod, c, nil
}

func (s *Server) pod(r *http.Request) (*corev1.Pod, error) {
	pod, ok := s.cfg.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if uid := r.PathValue("uid"); !ok || uid != "" && string(pod.UID) != uid {
		return nil, errNoPod
	}
	return pod, nil
}
