package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/mote-edge/mote/proxy/rules"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// healthChecks answers load balancers, one port a Service, whether this node has endpoints of it
// (externalTrafficPolicy Local).
type healthChecks struct {
	servers map[snapshot.Name]*healthServer
}

type healthServer struct {
	service   snapshot.Name
	port      uint16
	endpoints atomic.Int64
	http      *http.Server
}

// update starts, changes or stops the server of one Service. A port that is in use is an error; the next change of the
// Service tries again.
func (h *healthChecks) update(ctx context.Context, name snapshot.Name, svc *rules.Service) error {
	have := h.servers[name]
	if have != nil && (svc == nil || svc.HealthPort != have.port) {
		_ = have.http.Close()
		delete(h.servers, name)
		have = nil
	}
	if svc == nil || svc.HealthPort == 0 {
		return nil
	}
	if have == nil {
		l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(svc.HealthPort))))
		if err != nil {
			return fmt.Errorf("health check port of service %s: %w: free the port, or change healthCheckNodePort", name, err)
		}
		have = &healthServer{service: name, port: svc.HealthPort}
		have.http = &http.Server{Handler: have, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
		have.http.SetKeepAlivesEnabled(false)
		if h.servers == nil {
			h.servers = map[snapshot.Name]*healthServer{}
		}
		h.servers[name] = have
		go func() { _ = have.http.Serve(l) }() // ends with Close
	}
	have.endpoints.Store(int64(svc.LocalEndpoints))
	return nil
}

func (h *healthChecks) close() {
	for _, s := range h.servers {
		_ = s.http.Close()
	}
	h.servers = nil
}

// ServeHTTP answers in the shape that load balancers know from Kubernetes' own proxy.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n := s.endpoints.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"service":             map[string]string{"namespace": s.service.Namespace, "name": s.service.Name},
		"localEndpoints":      n,
		"serviceProxyHealthy": true,
	})
}
