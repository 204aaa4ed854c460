package criconfig

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/downward"
)

func TestExpand(t *testing.T) {
	lookup := func(name string) (string, bool) {
		v, ok := map[string]string{"A": "a", "E": "", "A B": "spaced"}[name]
		return v, ok
	}
	for in, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "a", "x$(A)y": "xay", "$(A)$(A)": "aa", "$(NO)": "$(NO)", "$$(A)": "$(A)", "$$$(A)": "$a", "$$": "$",
		"$": "$", "$A": "$A", "$(A": "$(A", "$(E)": "", "end$": "end$", "$(A B)": "spaced", "$((A)": "$((A)", "$()": "$()", "$$$$": "$$", "a$(NO)$(A)": "a$(NO)a",
	} {
		if got := Expand(in, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("$(A)$$")
	f.Fuzz(func(t *testing.T, s string) {
		same := func(name string) (string, bool) { return "", false }
		if got := Expand(s, same); !strings.Contains(s, "$$") && got != s {
			t.Errorf("nothing is defined and %q became %q", s, got)
		}
	})
}

type objects struct {
	configs map[string]map[string]string
	secrets map[string]map[string]string
}

func (o objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if d, ok := o.configs[name]; ok {
		return &corev1.ConfigMap{Data: d}, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (o objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if d, ok := o.secrets[name]; ok {
		s := &corev1.Secret{Data: map[string][]byte{}}
		for k, v := range d {
			s.Data[k] = []byte(v)
		}
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"l": "v"}},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Name: "main", Image: "img", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("1500m")}},
		}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func TestEnv(t *testing.T) {
	svc := func(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	in := EnvInput{
		Facts: downward.Facts{PodIPs: []string{"10.0.0.2", "fd00::2"}, HostIPs: []string{"192.0.2.1"}, Allocatable: corev1.ResourceList{"memory": resource.MustParse("2Gi")}},
		Services: []*corev1.Service{
			svc("ns", "web-app", "10.43.0.5", corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "dns-x", Port: 53, Protocol: "UDP"}),
			svc("ns", "headless", "None", corev1.ServicePort{Port: 1}),
			svc("default", "kubernetes", "10.43.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		},
		Objects: objects{configs: map[string]map[string]string{"cm": {"A": "1", "bad=name": "x", "B": "2"}}, secrets: map[string]map[string]string{"s": {"pw": "secret"}}},
	}
	ref := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	key := func(name, key string, optional bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: &optional}}
	}
	for name, c := range map[string]struct {
		env     []corev1.EnvVar
		from    []corev1.EnvFromSource
		noLinks bool
		want    map[string]string
		absent  []string
		err     string
	}{
		"plain, and a reference to an earlier one": {env: []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "Y", Value: "$(X)2$(Z)"}, {Name: "Z", Value: "3"}}, want: map[string]string{"Y": "12$(Z)"}},
		"fields": {env: []corev1.EnvVar{
			{Name: "NAME", ValueFrom: ref("metadata.name")},
			{Name: "L", ValueFrom: ref("metadata.labels['l']")},
			{Name: "IP", ValueFrom: ref("status.podIP")},
			{Name: "IPS", ValueFrom: ref("status.podIPs")},
			{Name: "NODE", ValueFrom: ref("spec.nodeName")},
			{Name: "HOST", ValueFrom: ref("status.hostIP")},
		}, want: map[string]string{"NAME": "p", "L": "v", "IP": "10.0.0.2", "IPS": "10.0.0.2,fd00::2", "NODE": "n1", "HOST": "192.0.2.1"}},
		"a field that isn't one": {env: []corev1.EnvVar{{Name: "X", ValueFrom: ref("spec.nope")}}, err: "unsupported fieldPath: spec.nope"},
		"resources": {env: []corev1.EnvVar{
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MILLI", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		}, want: map[string]string{"CPU": "2", "MILLI": "1500", "MEM": "2048"}},
		"envFrom, with a prefix, overridden": {
			from: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			env:  []corev1.EnvVar{{Name: "P_A", Value: "mine"}, {Name: "C", Value: "$(P_B)"}}, want: map[string]string{"P_A": "mine", "P_B": "2", "C": "2"},
		},
		"secret":              {env: []corev1.EnvVar{{Name: "PW", ValueFrom: key("s", "pw", false)}}, want: map[string]string{"PW": "secret"}},
		"no such key":         {env: []corev1.EnvVar{{Name: "PW", ValueFrom: key("s", "no", false)}}, err: "couldn't find key no in Secret ns/s"},
		"no such secret":      {env: []corev1.EnvVar{{Name: "PW", ValueFrom: key("gone", "no", false)}}, err: `secrets "gone" not found`},
		"optional key absent": {env: []corev1.EnvVar{{Name: "PW", ValueFrom: key("s", "no", true)}, {Name: "PW2", ValueFrom: key("gone", "no", true)}}, absent: []string{"PW", "PW2"}},
		"services": {env: []corev1.EnvVar{{Name: "URL", Value: "$(WEB_APP_SERVICE_HOST)"}}, want: map[string]string{
			"WEB_APP_SERVICE_HOST": "10.43.0.5", "WEB_APP_SERVICE_PORT": "80", "WEB_APP_SERVICE_PORT_HTTP": "80", "WEB_APP_PORT": "tcp://10.43.0.5:80",
			"WEB_APP_PORT_53_UDP": "udp://10.43.0.5:53", "WEB_APP_PORT_53_UDP_PROTO": "udp", "WEB_APP_PORT_80_TCP_ADDR": "10.43.0.5",
			"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "URL": "10.43.0.5",
		}, absent: []string{"HEADLESS_SERVICE_HOST"}},
		"no service links": {noLinks: true, want: map[string]string{"KUBERNETES_SERVICE_HOST": "10.43.0.1"}, absent: []string{"WEB_APP_SERVICE_HOST"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := in
			in.Pod = pod(func(p *corev1.Pod) { p.Spec.EnableServiceLinks = new(!c.noLinks) })
			in.Container = &in.Pod.Spec.Containers[0]
			in.Container.Env, in.Container.EnvFrom = c.env, c.from
			vars, skipped, err := Env(t.Context(), in)
			if fmt.Sprint(err) != c.err && (err != nil || c.err != "") {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			get := Lookup(vars)
			for k, want := range c.want {
				if v, ok := get(k); v != want || !ok {
					t.Errorf("%s=%q, want %q", k, v, want)
				}
			}
			for _, k := range c.absent {
				if v, ok := get(k); ok {
					t.Errorf("%s=%q, want none", k, v)
				}
			}
			if len(c.from) > 0 && !slices.Equal(skipped, []string{"bad=name"}) {
				t.Errorf("skipped %q", skipped)
			}
		})
	}
}

func TestResolver(t *testing.T) {
	host := ParseResolvConf("# x\nnameserver 192.0.2.53\nsearch example.com. corp\noptions rotate timeout:1\njunk\n")
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		dns    []string
		want   string
		warn   string
	}{
		"cluster first": {func(*corev1.Pod) {}, []string{"10.43.0.10"}, "[10.43.0.10] [ns.svc.c.l svc.c.l c.l example.com corp] [ndots:5]", ""},
		"default":       {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSDefault }, []string{"10.43.0.10"}, "[192.0.2.53] [example.com corp] [rotate timeout:1]", ""},
		"host network":  {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, []string{"10.43.0.10"}, "[192.0.2.53] [example.com corp] [rotate timeout:1]", ""},
		"host network, cluster first": {
			func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet },
			[]string{"10.43.0.10"},
			"[10.43.0.10] [ns.svc.c.l svc.c.l c.l example.com corp] [ndots:5]", "",
		},
		"no cluster DNS": {func(*corev1.Pod) {}, nil, "[192.0.2.53] [example.com corp] [rotate timeout:1]", "does not have ClusterDNS"},
		"none, its own": {func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("2")}, {Name: "edns0"}}}
		}, nil, "[1.1.1.1] [a] [ndots:2 edns0]", ""},
		"its own option wins": {func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: new("1")}}}
		}, []string{"10.43.0.10"}, "[10.43.0.10] [ns.svc.c.l svc.c.l c.l example.com corp] [ndots:1]", ""},
		"too many servers": {
			func(p *corev1.Pod) {
				p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3"}}
			},
			[]string{"10.43.0.10"},
			"[10.43.0.10 1.1.1.1 1.1.1.2] [ns.svc.c.l svc.c.l c.l example.com corp] [ndots:5]", "Nameserver limits were exceeded",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, warn := Resolver(DNSInput{Pod: pod(c.change), Host: host, ClusterDNS: c.dns, ClusterDomain: "c.l"})
			if got := fmt.Sprint(d.Servers, " ", d.Searches, " ", d.Options); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if !strings.Contains(warn, c.warn) || (c.warn == "") != (warn == "") {
				t.Errorf("warning %q, want %q", warn, c.warn)
			}
		})
	}
}

func TestNonRoot(t *testing.T) {
	user := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		pod, ctr *int64
		image    ImageUser
		want     string
	}{
		"image of root":         {image: ImageUser{}, want: "image will run as root"},
		"image of uid 0":        {image: ImageUser{UID: user(0)}, want: "image will run as root"},
		"image of a uid":        {image: ImageUser{UID: user(1000)}},
		"image of a name":       {image: ImageUser{Name: "www"}, want: "non-numeric user (www)"},
		"container's user":      {ctr: user(5), image: ImageUser{}},
		"pod's user is root":    {pod: user(0), want: "runAsUser breaks non-root policy"},
		"the container's wins":  {pod: user(0), ctr: user(7)},
		"the container is root": {pod: user(7), ctr: user(0), want: "runAsUser breaks non-root policy"},
	} {
		p := pod(func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: c.pod}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsUser: c.ctr}
		})
		err := CheckNonRoot(p, &p.Spec.Containers[0], c.image)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		out := corev1.ResourceList{}
		if cpu != "" {
			out["cpu"] = resource.MustParse(cpu)
		}
		if memory != "" {
			out["memory"] = resource.MustParse(memory)
		}
		return out
	}
	for name, c := range map[string]struct {
		requests, limits             corev1.ResourceList
		shares, quota, memory, score int64
	}{
		"best effort":       {nil, nil, 2, 0, 0, 1000},
		"burstable":         {list("500m", "1Gi"), nil, 512, 0, 0, 750},
		"burstable, tiny":   {list("1m", "1"), nil, 2, 0, 0, 999},
		"burstable, huge":   {list("", "4Gi"), nil, 2, 0, 0, 3},
		"guaranteed":        {list("1", "1Gi"), list("1", "1Gi"), 1024, 100000, 1 << 30, -997},
		"limit alone":       {nil, list("200m", ""), 204, 20000, 0, 999},
		"quota has a floor": {nil, list("1m", ""), 2, 1000, 0, 999},
	} {
		p := pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: c.requests, Limits: c.limits}
		})
		r := Resources(p, &p.Spec.Containers[0], 4<<30, false)
		if r.CpuShares != c.shares || r.CpuQuota != c.quota || r.MemoryLimitInBytes != c.memory || r.OomScoreAdj != c.score {
			t.Errorf("%s: shares %d quota %d memory %d score %d, want %+v", name, r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes, r.OomScoreAdj, c)
		}
	}
}

func TestHostsAndNames(t *testing.T) {
	p := pod(func(p *corev1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain = "h", "sub"
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"a", "b"}}}
	})
	text := Hosts(p, []string{"10.0.0.2"}, "c.l", "")
	for _, want := range []string{"# Kubernetes-managed hosts file.\n", "10.0.0.2\th.sub.ns.svc.c.l\th\n", "# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	long := pod(func(p *corev1.Pod) { p.Name = strings.Repeat("a", 62) + ".bcd" })
	if name, _ := Hostname(long, "c.l"); name != strings.Repeat("a", 62) {
		t.Errorf("hostname %q isn't a DNS label", name)
	}
	fqdn := pod(func(p *corev1.Pod) { p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = strings.Repeat("s", 60), new(true) })
	if _, err := Sandbox(SandboxInput{Pod: fqdn, ClusterDomain: "c.l"}); err == nil || !strings.Contains(err.Error(), "is too long (64 characters is the max") {
		t.Errorf("a hostname that the kernel can't hold: %v", err)
	}
}

func TestForbiddenSysctl(t *testing.T) {
	with := func(name string) *corev1.Pod {
		return pod(func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
		})
	}
	for name, ok := range map[string]bool{"kernel.shm_rmid_forced": true, "net/ipv4/tcp_syncookies": true, "kernel.msgmax": false, "net.core.somaxconn": true, "kernel.sem": false} {
		if msg := ForbiddenSysctl(with(name), []string{"net.core.*"}); (msg == "") != ok {
			t.Errorf("%s: %q", name, msg)
		}
	}
}

func TestContainer(t *testing.T) {
	p := pod(func(p *corev1.Pod) {
		p.Spec.ShareProcessNamespace = new(true)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsUser: new(int64(1)), FSGroup: new(int64(9)), SupplementalGroups: []int64{8},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("../../etc/p.json")},
		}
		c := &p.Spec.Containers[0]
		c.Command, c.Args = []string{"run", "$(V)"}, []string{"$$(V)"}
		c.SecurityContext = &corev1.SecurityContext{RunAsUser: new(int64(2)), AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}}
	})
	cfg, err := Container(ContainerInput{Pod: p, Container: &p.Spec.Containers[0], Attempt: 3, Env: []EnvVar{{"V", "x"}}, SeccompRoot: "/seccomp"})
	if err != nil {
		t.Fatal(err)
	}
	sc := cfg.Linux.SecurityContext
	switch {
	case !slices.Equal(cfg.Command, []string{"run", "x"}) || !slices.Equal(cfg.Args, []string{"$(V)"}):
		t.Errorf("command %q %q", cfg.Command, cfg.Args)
	case sc.RunAsUser.Value != 2 || !sc.NoNewPrivs || !slices.Equal(sc.SupplementalGroups, []int64{8, 9}) || sc.Capabilities.AddCapabilities[0] != "NET_ADMIN":
		t.Errorf("security context %+v", sc)
	case sc.Seccomp.LocalhostRef != "/seccomp/etc/p.json":
		t.Errorf("localhost profile %q leads out of its directory", sc.Seccomp.LocalhostRef)
	case sc.NamespaceOptions.Pid != runtimeapi.NamespaceMode_POD:
		t.Errorf("namespaces %+v", sc.NamespaceOptions)
	case cfg.LogPath != "main/3.log" || cfg.Metadata.Attempt != 3 || cfg.Labels["io.kubernetes.container.name"] != "main":
		t.Errorf("names: %q %+v", cfg.LogPath, cfg.Labels)
	}
}

// KEP-2837: a pod's own bounds stand in for those that its containers don't have.
func TestPodLevelResources(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	}
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Resources:      &corev1.ResourceRequirements{Requests: list("1", "400Mi"), Limits: list("2", "800Mi")},
		InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always}},
		Containers: []corev1.Container{
			{Name: "plain"},
			{Name: "bound", Resources: corev1.ResourceRequirements{Requests: list("100m", "100Mi"), Limits: list("500m", "200Mi")}},
		},
	}, Status: corev1.PodStatus{QOSClass: corev1.PodQOSBurstable}}
	const capacity = 1000 << 20
	for _, c := range []struct {
		container            *corev1.Container
		shares, quota, bytes int64
		score                int64
	}{
		// 300Mi of the pod's request are nobody's: 100Mi for each of the three.
		{&pod.Spec.Containers[0], 2048, 200_000, 800 << 20, 900},
		{&pod.Spec.Containers[1], 102, 50_000, 200 << 20, 800},
		{&pod.Spec.InitContainers[0], 2048, 200_000, 800 << 20, 900},
	} {
		r := Resources(pod, c.container, capacity, false)
		if r.CpuShares != c.shares || r.CpuQuota != c.quota || r.MemoryLimitInBytes != c.bytes || r.OomScoreAdj != c.score {
			t.Errorf("%s: shares %d, quota %d, memory %d, score %d; want %+v", c.container.Name, r.CpuShares, r.CpuQuota, r.MemoryLimitInBytes, r.OomScoreAdj, c)
		}
	}
}

// A sidecar is killed for want of memory no sooner than the containers that it serves.
func TestScoreOfASidecar(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	memory := func(m string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(m)}}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "side", RestartPolicy: &always, Resources: memory("10Mi")}},
		Containers:     []corev1.Container{{Name: "a", Resources: memory("300Mi")}, {Name: "b", Resources: memory("500Mi")}},
	}, Status: corev1.PodStatus{QOSClass: corev1.PodQOSBurstable}}
	if got := OOMScore(pod, &pod.Spec.InitContainers[0], 1000<<20); got != 700 {
		t.Errorf("score %d, want that of the least regular container, 700", got)
	}
}
