package image

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"time"

	"sigs.k8s.io/yaml"
)

// Registries is the content of registries.yaml. It is read anew for every pull, so that a change needs no restart.
//
//	mirrors:
//	  docker.io:                       # or "*", for every registry
//	    endpoints: [http://10.0.0.5:5000]
//	configs:
//	  registry.example.com:
//	    auth: {username: u, password: p}
//	    tls: {caFile: /etc/ssl/my-ca.pem, insecureSkipVerify: false}
type Registries struct {
	Mirrors map[string]Mirror         `json:"mirrors,omitempty"`
	Configs map[string]RegistryConfig `json:"configs,omitempty"`
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
	host  string
	plain bool // http
}

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
		out = append(out, endpoint{host: u.Host, plain: u.Scheme == "http"})
	}
	host := registry
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	return append(out, endpoint{host: host})
}

// transport builds the HTTP client of one endpoint.
func (r *Registries) transport(host string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: 30 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		// Nothing idles between pulls: connections would keep goroutines and buffers.
		IdleConnTimeout: 5 * time.Second,
	}
	c := r.Configs[host].TLS
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
