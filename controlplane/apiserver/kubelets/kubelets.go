// Package kubelets reaches the agents of nodes for the pods' log, exec, attach, port-forward and proxy subresources.
//
// Reads: Node objects, for the agent's address and port.
// Writes: nothing.
package kubelets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

const defaultPort = 10250

// sessions is for how many agents a TLS session is kept, about 4 KB each. Each exec is a connection of its own, whose handshake
// then needs no signatures. The agent verifies the certificate of a resumed session like any other.
const sessions = 256

// GetNode returns a node, or a NotFound API error.
type GetNode func(ctx context.Context, name string) (*corev1.Node, error)

// Client is the API server's identity towards the agents. The certificate is asked for at each handshake.
type Client struct {
	node             GetNode
	secure, insecure http.RoundTripper
}

// New returns a client that verifies agents with roots.
func New(node GetNode, roots *x509.CertPool, certificate func() *tls.Certificate) *Client {
	present := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate(), nil }
	transport := func(insecure bool) http.RoundTripper {
		return utilnet.SetTransportDefaults(&http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 2,
			TLSClientConfig: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: present,
				ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
				InsecureSkipVerify: insecure, //nolint:gosec // asked for by the request: kubectl logs --insecure-skip-tls-verify-backend
			},
		})
	}
	return &Client{node: node, secure: transport(false), insecure: transport(true)}
}

// Connection returns the agent's base URL and the transport that authenticates to it.
func (c *Client) Connection(ctx context.Context, node string) (*url.URL, http.RoundTripper, error) {
	u, err := c.url(ctx, node)
	return u, c.secure, err
}

// Insecure is Connection without a check of the agent's certificate.
func (c *Client) Insecure(ctx context.Context, node string) (*url.URL, http.RoundTripper, error) {
	u, err := c.url(ctx, node)
	return u, c.insecure, err
}

func (c *Client) url(ctx context.Context, name string) (*url.URL, error) {
	n, err := c.node(ctx, name)
	if err != nil {
		return nil, err
	}
	host, err := address(n)
	if err != nil {
		return nil, err
	}
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port <= 0 {
		port = defaultPort
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}, nil
}

// address prefers what another machine on the same network can route to.
func address(n *corev1.Node) (string, error) {
	for _, t := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS} {
		for _, a := range n.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("no preferred addresses found; known addresses: %v", n.Status.Addresses)
}
