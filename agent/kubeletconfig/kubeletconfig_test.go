package kubeletconfig

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/kubelet/config/v1beta1"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) (*Loaded, error) {
	t.Helper()
	return Load(write(t, t.TempDir(), "k.yaml", head+text), "")
}

// Every field of the published type acts, is accepted with a reason, or is refused with one; and nothing else is known.
func TestFieldsAreUpstreams(t *testing.T) {
	theirs, ours := map[string]reflect.Type{}, map[string]reflect.Type{}
	collect := func(of reflect.Type, into map[string]reflect.Type) {
		for i := range of.NumField() {
			if name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ","); name != "" {
				into[name] = of.Field(i).Type
			}
		}
	}
	collect(reflect.TypeFor[v1beta1.KubeletConfiguration](), theirs)
	collect(reflect.TypeFor[Configuration](), ours)
	for name := range theirs {
		if name == "kind" || name == "apiVersion" {
			continue
		}
		_, acts := ours[name]
		_, idle := ignored[name]
		_, no := refused[name]
		if n := count(acts, idle, no); n != 1 {
			t.Errorf("%s is known %d times", name, n)
		}
	}
	for name := range ours {
		if theirs[name] == nil {
			t.Errorf("%s isn't upstream's", name)
		}
	}
	for name := range ignored {
		if theirs[name] == nil {
			t.Errorf("%s isn't upstream's", name)
		}
	}
	for name := range refused {
		if theirs[name] == nil {
			t.Errorf("%s isn't upstream's", name)
		}
	}
	// What we write is what upstream's type reads, so the types of the fields agree, too.
	c := Default()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back v1beta1.KubeletConfiguration
	if err := json.Unmarshal(b, &back); err != nil {
		t.Error(err)
	}
	if back.MaxPods != 110 || *back.HealthzPort != 10248 || back.NodeStatusUpdateFrequency.Duration != 10*time.Second {
		t.Errorf("%+v", back)
	}
}

func count(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

func TestDefaults(t *testing.T) {
	c := Default()
	if errs := c.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	l, err := Load("", "")
	if err != nil || !reflect.DeepEqual(l.Configuration, c) || l.ParallelPulls() != DefaultParallelPulls {
		t.Errorf("%+v, %v", l, err)
	}
	for text, want := range map[string]int{
		"serializeImagePulls: true": 1, "serializeImagePulls: false": 1 << 10, "maxParallelImagePulls: 3": 3, "maxPods: 5": DefaultParallelPulls,
	} {
		if l, err := load(t, text); err != nil || l.ParallelPulls() != want {
			t.Errorf("%s: %d, %v", text, l.ParallelPulls(), err)
		}
	}
}

// Zero is a value where upstream has an optional field, and nothing where it hasn't.
func TestZero(t *testing.T) {
	l, err := load(t, "maxPods: 0\nhealthzPort: 0\noomScoreAdj: 0\neventRecordQPS: 0\nport: 0\nenableServer: false\nclusterDomain: ''\nresolvConf: ''\nnodeStatusUpdateFrequency: 0s\nauthorization: {mode: AlwaysAllow}\n")
	if err != nil {
		t.Fatal(err)
	}
	if l.MaxPods != 110 || l.HealthzPort != 0 || l.OOMScoreAdj != 0 || l.EventRecordQPS != 0 || l.Port != 10250 || l.EnableServer || l.ClusterDomain != "cluster.local" ||
		l.ResolverConfig != "" || l.NodeStatusUpdateFrequency.Duration != 10*time.Second || l.Authorization.Mode != "AlwaysAllow" || l.Authorization.Webhook.CacheAuthorizedTTL.Duration != 5*time.Minute {
		t.Errorf("%+v", l.Configuration)
	}
	l, err = load(t, "nodeStatusUpdateFrequency: 20s\nenforceNodeAllocatable: [none]\nfeatureGates: {ImageVolume: true, QOSReserved: false}\n")
	if err != nil || l.NodeStatusReportFrequency.Duration != 20*time.Second || fmt.Sprint(l.EnforceNodeAllocatable) != "[none]" {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	main := write(t, t.TempDir(), "k.yaml", head+"maxPods: 10\nevictionHard: {memory.available: 1Gi, nodefs.available: 5%}\nallowedUnsafeSysctls: [a, b]\npodPidsLimit: 7\n")
	write(t, dir, "20-b.conf", head+"maxPods: 30\npodPidsLimit: null\n")
	write(t, dir, "10-a.conf", head+"maxPods: 20\nevictionHard: {memory.available: 2Gi}\nallowedUnsafeSysctls: [c]\n")
	write(t, dir, "30-c.yaml", "not looked at")
	l, err := Load(main, dir)
	if err != nil {
		t.Fatal(err)
	}
	if l.MaxPods != 30 || l.PodPidsLimit != -1 || fmt.Sprint(l.EvictionHard) != "map[memory.available:2Gi nodefs.available:5%]" || fmt.Sprint(l.AllowedUnsafeSysctls) != "[c]" {
		t.Errorf("%+v", l.Configuration)
	}
}

func TestMistakesAreListed(t *testing.T) {
	for text, want := range map[string][]string{
		"maxPods: many": {"maxPods: a string is given where a int32 belongs"},
		"maxpods: 1\nclusterDNS: 10.43.0.10\nreadOnlyPort: 10255":        {`unknown field "maxpods"`, "clusterDNS: a string is given", "readOnlyPort: 10255 isn't possible here: there is no unauthenticated port"},
		"authentication: {x509: {clientCA: x}}":                          {`authentication: unknown field "clientCA"`},
		"cgroupDriver: systemd\ntracing: {}":                             {"cgroupDriver: \"systemd\" isn't possible here", "tracing: {} isn't possible here"},
		"maxPods: 1\nmaxPods: 2":                                         {`key "maxPods" already set`},
		"evictionSoft: {memory.available: 1Gi}":                          {"a soft threshold needs one"},
		"port: 70000\nimageGCLowThresholdPercent: 90":                    {"port: 70000 is not between", "imageGCLowThresholdPercent: 90 is not less than"},
		"featureGates: {QOSReserved: true, ImageVolume: false}":          {"ImageVolume: false: it can't be turned off", "QOSReserved: true: this node doesn't have it"},
		"shutdownGracePeriod: 10s\nshutdownGracePeriodCriticalPods: 20s": {"is longer than shutdownGracePeriod"},
		"shutdownGracePeriod: 10":                                        {"shutdownGracePeriod: "},
		"systemReserved: {gpu: 1}":                                       {"systemReserved: "},
		"enforceNodeAllocatable: [pods, kube-reserved]":                  {"kube-reserved needs kubeReservedCgroup"},
		"tlsMinVersion: TLS1.2\ntlsCertFile: /x":                         {"tlsMinVersion: ", "tlsCertFile: it goes with tlsPrivateKeyFile"},
		"serverTLSBootstrap: false":                                      {"serverTLSBootstrap: false: the API server verifies"},
		"registerWithTaints: [{key: a, effect: Never}]":                  {"registerWithTaints: a=:Never is not a taint"},
		"crashLoopBackOff: {maxContainerRestartPeriod: 10m}":             {"crashLoopBackOff.maxContainerRestartPeriod: 10m0s is not between 1s and 300s"},
	} {
		_, err := load(t, text)
		lines := strings.Split(fmt.Sprint(err), "\n")
		if err == nil || len(lines) != len(want) {
			t.Errorf("%s: %v, want %d lines", text, err, len(want))
			continue
		}
		for _, w := range want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, w) }) {
				t.Errorf("%s: %v, want %q", text, err, w)
			}
		}
	}
	for _, text := range []string{"", "[]", "kind: Pod", "apiVersion: kubelet.config.k8s.io/v1alpha1\nkind: KubeletConfiguration\n"} {
		if _, err := Load(write(t, t.TempDir(), "k", text), ""); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Load("/nonexistent", "/nonexistent.d"); err == nil {
		t.Error("missing files are fine")
	}
}

func TestIgnoredFieldsAreSaid(t *testing.T) {
	l, err := load(t, "syncFrequency: 1m\nhairpinMode: hairpin-veth\nkubeletCgroups: ''\n")
	if err != nil || len(l.Notes) != 2 || !strings.Contains(l.Notes[0], "hairpinMode changes nothing: ") {
		t.Errorf("%v, %v", l, err)
	}
}

func TestReserved(t *testing.T) {
	l, err := load(t, "systemReserved: {cpu: 500m, memory: 1Gi, pid: '100'}\nkubeReserved: {cpu: 100m}\n")
	if err != nil {
		t.Fatal(err)
	}
	system, kube := l.Reserved()
	if system.Cpu().MilliValue() != 500 || kube.Cpu().MilliValue() != 100 || system.Memory().Value() != 1<<30 {
		t.Errorf("%v %v", system, kube)
	}
	l.ReservedSystemCPUs = "0,3"
	if system, kube = l.Reserved(); system.Cpu().MilliValue() != 2000 || kube.Cpu().MilliValue() != 0 {
		t.Errorf("%v %v", system, kube)
	}
}

// The example of docs/operations.md is one that works.
func TestDocumentedExample(t *testing.T) {
	b, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "# /etc/mote/kubelet.yaml\n")
	text, _, end := strings.Cut(rest, "```")
	if !ok || !end {
		t.Fatal("docs/operations.md has no example of /etc/mote/kubelet.yaml")
	}
	l, err := Load(write(t, t.TempDir(), "kubelet.yaml", text), "")
	if err != nil || len(l.Notes) > 0 || l.ShutdownGracePeriod.Duration == 0 {
		t.Errorf("%+v, %v", l, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(head + "maxPods: 10\nevictionHard: {memory.available: 1Gi}\n")
	f.Add(head + "authentication: {anonymous: {enabled: true}}\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 2}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := Load(write(t, t.TempDir(), "k", text), ""); err == nil && len(l.Validate()) > 0 {
			t.Errorf("%q is let through", text)
		}
	})
}
