package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/internal/kubeclient"
	"github.com/mote-edge/mote/internal/testns"
)

// apiServer lists and watches the few resources that the proxy reads. Its watches send what is published.
type apiServer struct {
	mu       sync.Mutex
	lists    map[string]runtime.Object
	watchers map[string][]chan metav1.WatchEvent
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("sendInitialEvents") != "" {
		w.WriteHeader(http.StatusUnprocessableEntity) // as a server without the feature: the client lists instead
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
		return
	}
	a.mu.Lock()
	if r.URL.Query().Get("watch") == "" {
		defer a.mu.Unlock()
		_ = json.NewEncoder(w).Encode(a.lists[resource])
		return
	}
	events := make(chan metav1.WatchEvent, 16)
	a.watchers[resource] = append(a.watchers[resource], events)
	a.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			_ = json.NewEncoder(w).Encode(e)
			w.(http.Flusher).Flush()
		}
	}
}

// publish sends an event to every watch of the resource, once there is one.
func (a *apiServer) publish(t *testing.T, resource, kind string, obj runtime.Object) {
	t.Helper()
	b, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a watch of "+resource, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.watchers[resource]) == 0 {
			return errNotYet
		}
		for _, w := range a.watchers[resource] {
			w <- metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: b}}
		}
		return nil
	})
}

var errNotYet = errors.New("not yet")

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// The whole of a node's proxy: watch, rules, names, and what is left after Cleanup.
func TestRun(t *testing.T) {
	t.Parallel()
	if !testns.Process(t) {
		return
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("192.0.2.1").To4(), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	meta := func(kind, version, name string) (metav1.TypeMeta, metav1.ObjectMeta) {
		return metav1.TypeMeta{Kind: kind, APIVersion: version}, metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: "2"}
	}
	svc := corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.50", Ports: []corev1.ServicePort{{Name: "web", Port: 8000}}}}
	svc.TypeMeta, svc.ObjectMeta = meta("Service", "v1", "svc")
	kept := svc
	kept.Spec.ClusterIP = "10.43.0.51"
	kept.ObjectMeta.Name = "kept"
	slice := discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: new("web"), Port: new(int32(80))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
	}
	slice.TypeMeta, slice.ObjectMeta = meta("EndpointSlice", "discovery.k8s.io/v1", "svc-1")
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "svc"}
	list := metav1.ListMeta{ResourceVersion: "1"}
	api := &apiServer{watchers: map[string][]chan metav1.WatchEvent{}, lists: map[string]runtime.Object{
		"services":       &corev1.ServiceList{TypeMeta: metav1.TypeMeta{Kind: "ServiceList", APIVersion: "v1"}, ListMeta: list, Items: []corev1.Service{svc, kept}},
		"endpointslices": &discoveryv1.EndpointSliceList{TypeMeta: metav1.TypeMeta{Kind: "EndpointSliceList", APIVersion: "discovery.k8s.io/v1"}, ListMeta: list},
		"nodes":          &corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, ListMeta: list},
	}}
	srv := httptest.NewServer(api)
	defer srv.Close()
	defer srv.CloseClientConnections()
	client, err := kubeclient.New(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	dnsAddress := netip.MustParseAddr("10.43.0.10")
	cfg := Config{
		Client: client, NodeName: "here", ClusterCIDR: testConfig.ClusterCIDR, ServiceCIDR: testConfig.ServiceCIDR, DNSAddress: dnsAddress,
		Checkpoint: filepath.Join(t.TempDir(), "proxy", "snapshot.json"),
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()

	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "10.43.0.10:53")
	}}
	eventually(t, "the Service's name", func() error {
		addrs, err := resolver.LookupHost(ctx, "svc.ns.svc.cluster.local.")
		if err == nil && addrs[0] != "10.43.0.50" {
			t.Fatalf("resolved to %v", addrs)
		}
		return err
	})
	eventually(t, "rejection without endpoints", func() error {
		_, err := net.DialTimeout("tcp", "10.43.0.50:8000", time.Second)
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		return fmt.Errorf("got %w", err)
	})
	l, err := net.Listen("tcp", "192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	api.publish(t, "endpointslices", "ADDED", &slice)
	connects := func() error {
		c, err := net.DialTimeout("tcp", "10.43.0.50:8000", time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	eventually(t, "the Service's address", connects)
	for _, flush := range []string{"iptables -t nat -F", "iptables -F; iptables -t nat -F; iptables -t nat -X"} {
		if out, err := exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin; "+flush).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", flush, err, out)
		}
		eventually(t, "the Service's address after "+flush, connects)
	}
	api.publish(t, "services", "DELETED", &svc)
	eventually(t, "the Service's name is gone", func() error {
		if _, err := resolver.LookupHost(ctx, "svc.ns.svc.cluster.local."); err == nil {
			return errNotYet
		}
		return nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	restartOffline(t, cfg, resolver, srv)
	if err := Cleanup(context.Background(), dnsAddress); err != nil {
		t.Errorf("Cleanup: %v", err)
	}
	out, err := exec.Command("sh", "-c", "/usr/sbin/iptables-save; ip addr; ip rule; ip route show table all").CombinedOutput()
	if err != nil || strings.Contains(string(out), "MOTE") || strings.Contains(string(out), "10.43.") {
		t.Errorf("after Cleanup: %v\n%s", err, out)
	}
}

// A node whose agent starts while the API server is away resolves what it knew, the Service "kept" in this case.
func restartOffline(t *testing.T, cfg Config, resolver *net.Resolver, srv *httptest.Server) {
	t.Helper()
	eventually(t, "the checkpoint", func() error {
		_, err := os.Stat(cfg.Checkpoint)
		return err
	})
	srv.CloseClientConnections()
	srv.Close()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	eventually(t, "a name without API server", func() error {
		_, err := resolver.LookupHost(ctx, "kept.ns.svc.cluster.local.")
		return err
	})
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}
