package pki

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Leaf is a certificate that lives in memory and is issued anew when two thirds of its life are over. It satisfies
// dynamiccertificates.CertKeyContentProvider and its Notifier, by shape.
type Leaf struct {
	name    string
	ca      *Authority
	subject Subject

	mu        sync.Mutex
	pair      KeyPair
	tls       *tls.Certificate
	listeners []Listener
}

// Listener is told when a Leaf has a new certificate.
type Listener interface{ Enqueue() }

// NewLeaf issues the first certificate. Run keeps it fresh.
func NewLeaf(name string, ca *Authority, subject Subject) (*Leaf, error) {
	l := &Leaf{name: name, ca: ca, subject: subject}
	return l, l.renew(time.Now())
}

func (l *Leaf) renew(now time.Time) error {
	pair, err := l.ca.Issue(l.subject, now)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		return fmt.Errorf("load the certificate of %s: %w", l.name, err)
	}
	l.mu.Lock()
	l.pair, l.tls = pair, &cert
	listeners := l.listeners
	l.mu.Unlock()
	for _, x := range listeners {
		x.Enqueue()
	}
	return nil
}

// Name says which certificate this is, for logs.
func (l *Leaf) Name() string { return l.name }

// CurrentCertKeyContent returns the certificate chain and the key, in PEM.
func (l *Leaf) CurrentCertKeyContent() (certPEM, keyPEM []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pair.CertPEM, l.pair.KeyPEM
}

// Certificate returns the current certificate for a TLS handshake.
func (l *Leaf) Certificate() *tls.Certificate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tls
}

// NotifyOnChange registers a listener for renewals.
func (l *Leaf) NotifyOnChange(x Listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners = append(l.listeners, x)
}

// Export writes the certificate and its key to files, now and at each renewal, for libraries that read files alone.
func (l *Leaf) Export(certPath, keyPath string) error {
	e := &export{l, certPath, keyPath}
	if err := e.write(); err != nil {
		return err
	}
	l.NotifyOnChange(e)
	return nil
}

type export struct {
	leaf              *Leaf
	certPath, keyPath string
}

func (e *export) write() error {
	certPEM, keyPEM := e.leaf.CurrentCertKeyContent()
	if err := WriteFile(e.keyPath, keyPEM); err != nil {
		return err
	}
	return WriteFile(e.certPath, certPEM)
}

// Enqueue implements Listener.
func (e *export) Enqueue() {
	if err := e.write(); err != nil {
		slog.Error("renewed certificate not written", "certificate", e.leaf.name, "err", err)
	}
}

func (l *Leaf) notAfter() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pair.NotAfter
}

// renewAt is when a certificate that ends at notAfter should be replaced.
func renewAt(notAfter time.Time) time.Time { return notAfter.Add(-leafLife / 3) }

// longestSleep bounds a timer: a device's clock may jump by years once it finds a time server, and timers don't see it.
const longestSleep = time.Hour

// RunAll renews leaves until the context ends. It wakes once an hour.
func RunAll(ctx context.Context, leaves ...*Leaf) {
	t := time.NewTicker(longestSleep)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, l := range leaves {
			now := time.Now()
			if now.Before(renewAt(l.notAfter())) {
				continue
			}
			if err := l.renew(now); err != nil {
				slog.ErrorContext(ctx, "certificate not renewed, trying again in an hour", "certificate", l.name, "err", err)
				continue
			}
			slog.InfoContext(ctx, "certificate renewed", "certificate", l.name, "notAfter", l.notAfter())
		}
	}
}
