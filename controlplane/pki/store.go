package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Store holds what lies on disk.
type Store struct {
	Dir        string
	CA         *Authority // signs clients, the API server, kubelets
	FrontProxy *Authority // signs the aggregator's client certificate, nothing else
	// ServiceAccountKey signs service-account tokens; its public half verifies them and is published as JWKS.
	ServiceAccountKey *ecdsa.PrivateKey
	ServiceAccountPEM []byte
}

// Open reads the store in dir and makes what is missing. A file that is there but can't be used is an error: replacing
// an authority would lock out every node.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the certificate directory: %w", err)
	}
	now := time.Now()
	s := &Store{Dir: dir}
	var g errgroup.Group
	g.Go(func() (err error) {
		s.CA, err = openAuthority(dir, "ca", "mote-ca", now)
		return err
	})
	g.Go(func() (err error) {
		s.FrontProxy, err = openAuthority(dir, "front-proxy-ca", "mote-front-proxy-ca", now)
		return err
	})
	g.Go(func() (err error) {
		s.ServiceAccountKey, s.ServiceAccountPEM, err = openKey(filepath.Join(dir, "service-account.key"))
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return s, syncDir(dir)
}

func openAuthority(dir, base, name string, now time.Time) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, base+".crt"), filepath.Join(dir, base+".key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	switch {
	case certErr == nil && keyErr == nil:
		return parseAuthority(certPath, keyPath, certPEM, keyPEM, now)
	case errors.Is(certErr, fs.ErrNotExist) && (keyErr == nil || errors.Is(keyErr, fs.ErrNotExist)):
		// The key is written first and the certificate completes the pair: a key alone is a start that was cut off.
		a, err := newAuthority(name, now)
		if err != nil {
			return nil, err
		}
		if err := WriteFile(keyPath, a.KeyPEM); err != nil {
			return nil, err
		}
		return a, WriteFile(certPath, a.CertPEM)
	case certErr == nil && errors.Is(keyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is missing beside %s: restore it from a backup, or remove both to begin a new authority", keyPath, certPath)
	default:
		return nil, fmt.Errorf("read the certificate authority: %w", errors.Join(certErr, keyErr))
	}
}

func parseAuthority(certPath, keyPath string, certPEM, keyPEM []byte, now time.Time) (*Authority, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s holds no PEM certificate: restore it from a backup", certPath)
	}
	key, err := parseKey(keyPath, keyPEM)
	if err != nil {
		return nil, err
	}
	a, err := authorityFrom(block.Bytes, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certPath, err)
	}
	if pub, ok := a.Cert.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("%s does not belong to %s: restore the pair from one backup", keyPath, certPath)
	}
	if !a.Cert.IsCA {
		return nil, fmt.Errorf("%s is not an authority's certificate", certPath)
	}
	if now.After(a.Cert.NotAfter) {
		return nil, fmt.Errorf("%s ended on %s: remove it and its key to begin a new authority, then join the nodes anew", certPath, a.Cert.NotAfter.Format(time.DateOnly))
	}
	return a, nil
}

func openKey(path string) (*ecdsa.PrivateKey, []byte, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		key, err := parseKey(path, data)
		return key, data, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read the service-account key: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate the service-account key: %w", err)
	}
	data, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, data, WriteFile(path, data)
}

func parseKey(path string, data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM private key: restore it from a backup", path)
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T: mote needs an ECDSA key", path, parsed)
	}
	return key, nil
}

// WriteFile replaces a file at once and lastingly: readers see the old content or the new one.
func WriteFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close(), os.Remove(f.Name()))
		}
	}()
	if err := f.Chmod(0o600); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := d.Sync(); err != nil {
		_ = d.Close()
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return d.Close()
}
