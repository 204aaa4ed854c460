package pki

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// filePair is a serving certificate of the administrator's own. It is read again when one of its files has changed, which
// a handshake looks for: two stat calls.
type filePair struct {
	cert, key string

	mu   sync.Mutex
	at   [2]time.Time
	pair *tls.Certificate
}

func (f *filePair) get() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var at [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return f.pair, f.unless(fmt.Errorf("serving certificate: %w: see tlsCertFile and tlsPrivateKeyFile", err))
		}
		at[i] = info.ModTime()
	}
	if f.pair != nil && at == f.at {
		return f.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil { // half replaced, perhaps: the old one holds on
		return f.pair, f.unless(fmt.Errorf("serving certificate %s: %w: see tlsCertFile and tlsPrivateKeyFile", f.cert, err))
	}
	f.pair, f.at = &pair, at
	return f.pair, nil
}

func (f *filePair) unless(err error) error {
	if f.pair != nil {
		return nil
	}
	return err
}
