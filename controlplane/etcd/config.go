package etcd

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"
)

// Config says where the data lives.
type Config struct {
	Dir string // embedded etcd's directory

	// Servers are an external cluster's URLs; with any, nothing is embedded. The files are in PEM.
	Servers                   []string
	CAFile, CertFile, KeyFile string

	// CompactInterval is how much history watches and old list pages may ask for. Default 5 minutes.
	CompactInterval time.Duration
	// QuotaBytes bounds the embedded database's file. Default 2 GiB.
	QuotaBytes int64
	// UnsafeNoSync skips fsync. A power cut then loses acknowledged writes: for tests only.
	UnsafeNoSync bool
}

// Validate says what is wrong with the configuration and how to mend it.
func (c *Config) Validate() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("--etcd-certfile and --etcd-keyfile go together: give both or neither")
	}
	for flag, path := range map[string]string{"--etcd-cafile": c.CAFile, "--etcd-certfile": c.CertFile, "--etcd-keyfile": c.KeyFile} {
		if path == "" {
			continue
		}
		if len(c.Servers) == 0 {
			return fmt.Errorf("%s belongs to an external etcd: give --etcd-servers too", flag)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s: %w", flag, err)
		}
	}
	for _, s := range c.Servers {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" && u.Path == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			return fmt.Errorf("--etcd-servers %q is not a URL like https://10.0.0.1:2379", s)
		}
	}
	if len(c.Servers) == 0 && c.Dir == "" {
		return errors.New("the embedded etcd needs a directory: give --data-dir")
	}
	return nil
}

func (c *Config) complete() {
	if c.CompactInterval == 0 {
		c.CompactInterval = 5 * time.Minute
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = 2 << 30
	}
}
