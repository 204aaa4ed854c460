package nodeproc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/mote-edge/mote/internal/layout"
)

// config reads flags as the programs do.
func config(t *testing.T, file string, args ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n" + file
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var f Flags
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Register(fs)
	if err := fs.Parse(append(args, "--kubelet-config", path, "--node-name", "n1")); err != nil {
		t.Fatal(err)
	}
	return f.Config(layout.Default(), "10.42.0.0/16", "10.43.0.0/16", "cluster.local")
}

// What is on the command line wins over the file, and the file over the flags' defaults.
func TestFlagsWinOverTheFile(t *testing.T) {
	c, err := config(t, "maxPods: 20\nport: 10350\nclusterDNS: [10.43.0.99]\npodPidsLimit: 100\nregisterWithTaints: [{key: a, effect: NoSchedule}]\n", "--max-pods=30")
	if err != nil {
		t.Fatal(err)
	}
	if k := c.Agent.Kubelet; k.MaxPods != 30 || k.Port != 10350 || k.PodPidsLimit != 100 || len(k.RegisterWithTaints) != 1 || c.DNS.String() != "10.43.0.99" || k.PodLogsDir != "/var/log/pods" {
		t.Errorf("%+v", k)
	}
	c, err = config(t, "registerWithTaints: [{key: a, effect: NoSchedule}]\nclusterDNS: [10.43.0.99]\n", "--register-with-taints=b=c:NoExecute", "--cluster-dns=", "--pod-max-pids=7")
	if err != nil {
		t.Fatal(err)
	}
	if k := c.Agent.Kubelet; len(k.RegisterWithTaints) != 1 || k.RegisterWithTaints[0].Key != "b" || k.ClusterDNS != nil || c.DNS.IsValid() || k.PodPidsLimit != 7 || k.MaxPods != 110 {
		t.Errorf("%+v", k)
	}
}

func TestMistakesNameTheirPlace(t *testing.T) {
	for file, args := range map[string][]string{
		"maxPods: x": nil, "": {"--max-pods=-1"}, "{}": {"--register-with-taints=x"}, "port: 1\nnope: 1\n": nil,
	} {
		if _, err := config(t, file, args...); err == nil || strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%q %v: %v", file, args, err)
		}
	}
}
