package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types/create"
)

// What a plugin prints is a stranger's: an address that is taken from it is one.
func FuzzResult(f *testing.F) {
	for _, seed := range []string{
		`{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.1.2.3/24","interface":0}]}`,
		`{"cniVersion":"1.0.0","ips":[{"address":"fd00::1/64"},{"address":"10.0.0.1/8","interface":7}]}`,
		`{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.2.3/24","interface":-1}]}`,
		`{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24"}}`,
		`{"cniVersion":"1.1.0","interfaces":[null],"ips":[null,{"address":"10.1.2.3/24","interface":0},{}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		version, err := create.DecodeVersion(b)
		if err != nil {
			return
		}
		result, err := create.Create(version, b)
		if err != nil {
			return
		}
		ips, err := addresses(result)
		if err != nil {
			return
		}
		for _, ip := range ips {
			if _, err := netip.ParseAddr(ip); err != nil {
				t.Errorf("%q of %s: %v", ip, b, err)
			}
		}
	})
}

// A configuration is an administrator's file: a bad one is an error that names it.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"mote","plugins":[{"type":"mote-cni","bridge":"mote0"}]}`), true)
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"x","type":"bridge","ipam":{}}`), false)
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"mote","plugins":[null,{}],"disableCheck":"x"}`), true)
	f.Fuzz(func(t *testing.T, b []byte, list bool) {
		dir := t.TempDir()
		name := "10.conf"
		if list {
			name = "10.conflist"
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if conf, err := New(dir, []string{dir}, dir, nil).Config(); err == nil && len(conf.Plugins) == 0 && !list {
			t.Errorf("a configuration without plugins: %s", b)
		}
	})
}
