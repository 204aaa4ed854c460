// Package pki is the node's identity: it joins a cluster with a token, keeps the node's client and serving certificates
// on disk, and renews them before they end.
//
// Reads:  the API server's certificate chain, CertificateSigningRequests.
// Writes: <dir>/ca.crt, client.pem, serving.pem, server (all 0600); CertificateSigningRequests.
package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/rest"

	"github.com/mote-edge/mote/agent/meter"
)

// The files of a node's identity. Each pem holds the key and then the chain, so that a rename replaces both at once.
const (
	caFile      = "ca.crt"
	clientFile  = "client.pem"
	servingFile = "serving.pem"
	serverFile  = "server"
)

// Config is what a node's certificates are made for.
type Config struct {
	Dir       string
	NodeName  string
	Addresses []netip.Addr // of the serving certificate
	// Client says whether the client certificate is this package's to renew; the in-process node of a server has
	// another way to its API server.
	Client bool
	CSRs   CSRs
	// CertFile and KeyFile are a serving certificate of the administrator's own, read again when it changes; empty: one is
	// requested.
	CertFile, KeyFile string
	Tally             *meter.Tally // nil counts nothing
	Log               *slog.Logger
}

// Certificates keeps a node's certificates good.
type Certificates struct {
	cfg     Config
	serving atomic.Pointer[tls.Certificate]
	ready   chan struct{}
	file    *filePair // the administrator's own; nil: serving is
	due     func(*x509.Certificate) time.Time
}

// New loads what is on disk. It makes no request.
func New(cfg Config) (*Certificates, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the node's certificates: %w", err)
	}
	c := &Certificates{cfg: cfg, ready: make(chan struct{}), due: renewAt}
	if cfg.CertFile != "" {
		c.file = &filePair{cert: cfg.CertFile, key: cfg.KeyFile}
		if _, err := c.file.get(); err != nil {
			return nil, err
		}
		close(c.ready)
		return c, nil
	}
	if cert, err := load(c.path(servingFile)); err == nil && c.servingFits(cert) && time.Now().Before(cert.Leaf.NotAfter) {
		c.serving.Store(cert)
		close(c.ready)
	}
	return c, nil
}

// Serving is a tls.Config's GetCertificate. It fails until the first certificate has been signed.
func (c *Certificates) Serving(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.file != nil {
		return c.file.get()
	}
	if cert := c.serving.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("the node's serving certificate has not been signed yet")
}

// ClientUntil is when the client certificate ends; zero if that isn't this package's.
func (c *Certificates) ClientUntil() time.Time {
	if !c.cfg.Client {
		return time.Time{}
	}
	cert, err := load(c.path(clientFile))
	if err != nil {
		return time.Time{}
	}
	return cert.Leaf.NotAfter
}

// Ready is closed once there is a serving certificate.
func (c *Certificates) Ready() <-chan struct{} { return c.ready }

// Run renews the certificates before they end, until ctx does.
func (c *Certificates) Run(ctx context.Context) error {
	retry := time.Second
	for {
		next, err := c.renew(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := time.Until(next)
		if err != nil {
			wait, retry = retry, min(2*retry, time.Minute)
			c.cfg.Log.Warn("a certificate of the node isn't renewed yet", "error", err)
		} else {
			retry = time.Second
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// renew asks for what is missing or due, and says when to look again. One that isn't signed doesn't keep the other back.
func (c *Certificates) renew(ctx context.Context) (time.Time, error) {
	next := time.Now().Add(24 * time.Hour)
	at, err := c.renewServing(ctx, next)
	if err != nil {
		c.cfg.Tally.Add(meter.ServingRenewals, 1)
	}
	next = earlier(next, at)
	if !c.cfg.Client {
		return next, err
	}
	client, clientErr := load(c.path(clientFile))
	if clientErr != nil || !time.Now().Before(c.due(client.Leaf)) {
		client, clientErr = c.request(ctx, clientFile, request{node: c.cfg.NodeName, signer: certificatesv1.KubeAPIServerClientKubeletSignerName})
		if clientErr != nil {
			c.cfg.Tally.Add(meter.ClientRenewals, 1)
			return next, errors.Join(err, fmt.Errorf("client certificate: %w", clientErr))
		}
		c.cfg.Log.Info("the node's client certificate is renewed", "until", client.Leaf.NotAfter)
	}
	return earlier(next, c.due(client.Leaf)), err
}

func (c *Certificates) renewServing(ctx context.Context, next time.Time) (time.Time, error) {
	if c.file != nil {
		return next, nil
	}
	serving := c.serving.Load()
	if serving == nil || !time.Now().Before(c.due(serving.Leaf)) {
		cert, err := c.request(ctx, servingFile, request{
			node: c.cfg.NodeName, signer: certificatesv1.KubeletServingSignerName, names: []string{c.cfg.NodeName}, addresses: c.cfg.Addresses,
		})
		if err != nil {
			return next, fmt.Errorf("serving certificate: %w", err)
		}
		c.serving.Store(cert)
		if serving == nil {
			close(c.ready)
		} else {
			c.cfg.Log.Info("the node's serving certificate is renewed", "until", cert.Leaf.NotAfter)
		}
		serving = cert
	}
	return c.due(serving.Leaf), nil
}

func (c *Certificates) request(ctx context.Context, file string, r request) (*tls.Certificate, error) {
	pemBytes, err := sign(ctx, c.cfg.CSRs, r)
	if err != nil {
		return nil, err
	}
	if err := writeFile(c.path(file), pemBytes); err != nil {
		return nil, err
	}
	return load(c.path(file))
}

func (c *Certificates) path(name string) string { return filepath.Join(c.cfg.Dir, name) }

// servingFits tells whether a certificate names this node as it is now.
func (c *Certificates) servingFits(cert *tls.Certificate) bool {
	for _, a := range c.cfg.Addresses {
		if cert.Leaf.VerifyHostname(a.String()) != nil {
			return false
		}
	}
	return slices.Contains(cert.Leaf.DNSNames, c.cfg.NodeName)
}

// renewAt is after 70 to 90 % of a certificate's life, the same moment for the same certificate.
func renewAt(leaf *x509.Certificate) time.Time {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	seed := rand.New(rand.NewPCG(uint64(leaf.NotAfter.Unix()), leaf.SerialNumber.Uint64()))
	return leaf.NotBefore.Add(time.Duration(float64(life) * (0.7 + 0.2*seed.Float64())))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// load reads a pem of key and chain.
func load(path string) (*tls.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &cert, nil
}

// Load returns the way to the API server that an earlier join left, or fs.ErrNotExist. An identity whose time is over,
// or of another node, counts as none.
func Load(dir, nodeName string) (*rest.Config, error) {
	server, err := os.ReadFile(filepath.Join(dir, serverFile))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	client := filepath.Join(dir, clientFile)
	_ = os.Remove(client + ".tmp") // a renewal that a crash cut off
	cert, err := load(client)
	if err != nil {
		return nil, err
	}
	if time.Now().After(cert.Leaf.NotAfter) || cert.Leaf.Subject.CommonName != "system:node:"+nodeName {
		return nil, fs.ErrNotExist
	}
	return &rest.Config{
		Host: strings.TrimSpace(string(server)),
		// Named as files, the certificate is read again after it has been renewed.
		TLSClientConfig: rest.TLSClientConfig{CAData: ca, CertFile: client, KeyFile: client},
	}, nil
}

// writeFile writes a file that is whole or not there, and only root's.
func writeFile(path string, data []byte) error {
	next := path + ".tmp"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(next, path)
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
