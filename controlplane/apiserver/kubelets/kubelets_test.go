package kubelets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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
