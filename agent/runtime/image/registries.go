package image

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"sigs.k8s.io/yaml"
)

// Registries is the content of registries.yaml. It is read anew for every pull, so that a change needs no restart.
//
//	mirrors:
//	  docker.io:                       # or "*", for every registry
//	    endpoints: [http://10.0.0.5:5000, https://harbor.example.com/hub]   # a path goes before the image's name
//	configs:
//	  registry.example.com:
//	    auth: {username: u, password: p}
//	    tls: {caFile: /etc/ssl/my-ca.pem, insecureSkipVerify: false}
//	limits: {imageBytes: 10000000000}    # the one part that is read at the start only
type Registries struct {
	Mirrors map[string]Mirror         `json:"mirrors,omitempty"`
	Configs map[string]RegistryConfig `json:"configs,omitempty"`
	Limits  Limits                    `json:"limits,omitempty"`
}

// Mirror lists places to ask, in this order, before the registry itself.
type Mirror struct {
	Endpoints []string `json:"endpoints"`
}

// RegistryConfig holds what one registry or mirror (host or host:port) needs.
type RegistryConfig struct {
	Auth *RegistryAuth `json:"auth,omitempty"`
	TLS  *RegistryTLS  `json:"tls,omitempty"`
}

// RegistryAuth are credentials. They are never logged.
type RegistryAuth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identityToken,omitempty"`
}

// RegistryTLS says whom to trust and how to show who we are.
type RegistryTLS struct {
	CAFile             string `json:"caFile,omitempty"`
	CertFile           string `json:"certFile,omitempty"`
	KeyFile            string `json:"keyFile,omitempty"`
	InsecureSkipVerify bool   `json:"insecureSkipVerify,omitempty"`
}

// loadRegistries reads path; a missing file is an empty configuration.
func loadRegistries(path string) (*Registries, error) {
	r := &Registries{}
	if path == "" {
		return r, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the registry configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("registry configuration %s: %w", path, err)
	}
	if l := r.Limits; min(l.ImageBytes, l.LayerBytes, l.FileBytes, l.ConfigBytes, int64(l.LayerEntries), int64(l.Layers)) < 0 || l.Layers > maxLayers {
		return nil, fmt.Errorf("registry configuration %s: limits are positive numbers, and at most %d layers: leave one out for its default", path, maxLayers)
	}
	for host, m := range r.Mirrors {
		for _, e := range m.Endpoints {
			if u, err := url.Parse(e); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
				return nil, fmt.Errorf("registry configuration %s: mirror %q of %s: write it as http://host:port or https://host", path, e, host)
			}
		}
	}
	return r, nil
}

// endpoint is one place to pull from.
type endpoint struct {
	host   string
	prefix string // of repository names, "" or "project/"
	plain  bool   // http
	mirror bool
}

// hubHost is where docker.io's API is.
const hubHost = "registry-1.docker.io"

// endpoints returns where to look for a registry's images: mirrors first, then the registry.
func (r *Registries) endpoints(registry string) []endpoint {
	m, ok := r.Mirrors[registry]
	if !ok {
		m = r.Mirrors["*"]
	}
	var out []endpoint
	for _, e := range m.Endpoints {
		u, err := url.Parse(e)
		if err != nil {
			continue // loadRegistries refused it
		}
		prefix := strings.Trim(u.Path, "/")
		if prefix == "v2" {
			prefix = ""
		}
		if prefix = strings.TrimPrefix(prefix, "v2/"); prefix != "" {
			prefix += "/"
		}
		out = append(out, endpoint{host: u.Host, prefix: prefix, plain: u.Scheme == "http", mirror: true})
	}
	host := registry
	if host == "docker.io" {
		host = hubHost
	}
	// A registry on this machine speaks HTTP unless the configuration says how to trust it, as it does with other runtimes.
	return append(out, endpoint{host: host, plain: loopback(host) && r.config(host).TLS == nil})
}

// config returns what is configured for a host; docker.io's API host goes by either name.
func (r *Registries) config(host string) RegistryConfig {
	c, ok := r.Configs[host]
	if !ok && host == hubHost {
		c = r.Configs["docker.io"]
	}
	return c
}

func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(strings.Trim(name, "[]"))
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// proxyFromEnvironment is HTTPS_PROXY and its relatives as they are now, not as they were at the first request.
func proxyFromEnvironment() func(*http.Request) (*url.URL, error) {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return proxy(r.URL) }
}

// transport builds the HTTP client of one endpoint.
func (r *Registries) transport(host string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: proxyFromEnvironment(), ResponseHeaderTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		// Nothing idles between pulls: connections would keep goroutines and buffers.
		IdleConnTimeout: 5 * time.Second,
		// HTTP/2 would buffer megabytes a connection, for streams that we don't have.
		TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		// What a registry says besides the content is short.
		MaxResponseHeaderBytes: 64 << 10,
	}
	c := r.config(host).TLS
	if c == nil {
		return t, nil
	}
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: c.InsecureSkipVerify, MinVersion: tls.VersionTLS12} //nolint:gosec // the administrator's word
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registry %s: caFile: %w", host, err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registry %s: caFile %s holds no PEM certificate", host, c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("registry %s: client certificate: %w", host, err)
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{cert}
	}
	return t, nil
}
