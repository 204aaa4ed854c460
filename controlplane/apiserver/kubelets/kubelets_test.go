package kubelets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestConnectionPrefersInternalAddressAndReportedPort(t *testing.T) {
	nodes := map[string]*corev1.Node{
		"both":  {Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "h"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}}},
		"six":   {Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "fd00::1"}}, DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 9}}}},
		"empty": {},
	}
	c := New(func(_ context.Context, name string) (*corev1.Node, error) {
		if n := nodes[name]; n != nil {
			return n, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name)
	}, x509.NewCertPool(), func() *tls.Certificate { return nil })
	for name, want := range map[string]string{"both": "https://10.0.0.1:10250", "six": "https://[fd00::1]:9"} {
		if u, rt, err := c.Connection(t.Context(), name); err != nil || u.String() != want || rt == nil {
			t.Errorf("%s: %v %v, want %s", name, u, err, want)
		}
	}
	if _, _, err := c.Connection(t.Context(), "gone"); !apierrors.IsNotFound(err) {
		t.Errorf("an unknown node: %v, want not found", err)
	}
	if _, _, err := c.Connection(t.Context(), "empty"); err == nil {
		t.Error("a node without addresses has a URL")
	}
	_, secure, _ := c.Connection(t.Context(), "both")
	_, insecure, _ := c.Insecure(t.Context(), "both")
	if secure == insecure {
		t.Error("one transport for both")
	}
}

func TestConnectionsResumeTheSession(t *testing.T) {
	type seen struct{ resumed, identified bool }
	var got []seen
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = append(got, seen{r.TLS.DidResume, len(r.TLS.PeerCertificates) == 1})
	}))
	agent.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert}
	agent.StartTLS()
	defer agent.Close()
	at, _ := url.Parse(agent.URL)
	port, _ := strconv.Atoi(at.Port())
	node := &corev1.Node{Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: at.Hostname()}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(port)}},
	}}
	roots := x509.NewCertPool()
	c := New(func(context.Context, string) (*corev1.Node, error) { return node, nil }, roots, func() *tls.Certificate { return &agent.TLS.Certificates[0] })
	get := func(of func(context.Context, string) (*url.URL, http.RoundTripper, error)) error {
		u, transport, err := of(t.Context(), "n")
		if err != nil {
			t.Fatal(err)
		}
		defer transport.(*http.Transport).CloseIdleConnections() // the next one is another
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
		answer, err := transport.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	if err := get(c.Insecure); err != nil {
		t.Fatal(err)
	}
	if err := get(c.Connection); err == nil {
		t.Fatal("an agent that isn't known was trusted after a request that didn't care")
	}
	roots.AddCert(agent.Certificate())
	got = nil
	for range 2 {
		if err := get(c.Connection); err != nil {
			t.Fatal(err)
		}
	}
	if want := []seen{{false, true}, {true, true}}; len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("the agent saw (resumed, identified) %v, want %v", got, want)
	}
}
