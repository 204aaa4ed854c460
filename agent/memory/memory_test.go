package memory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/numa/numatest"
	"github.com/mote-edge/mote/agent/topology"
)

// Two nodes of 8 GiB, of which 1 GiB are huge pages and 1 GiB is reserved on node 0: 6 GiB and 7 GiB are left.
var two = numatest.Shape{Sockets: 2, NodesPerSocket: 1, CachesPerNode: 1, CoresPerCache: 2, ThreadsPerCore: 1, Memory: 8 << 30, HugePages: map[int64]int{2 << 20: 512}}.Machine()

var anywhere = topology.Hint{Any: true, Preferred: true}

func list(s string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, kv := range strings.Fields(s) {
		k, v, _ := strings.Cut(kv, "=")
		out[corev1.ResourceName(k)] = resource.MustParse(v)
	}
	return out
}

func ctr(name, memory string) corev1.Container {
	l := list("cpu=1 memory=" + memory)
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: l, Limits: l}}
}

func pod(uid string, cs ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}, Spec: corev1.PodSpec{Containers: cs}}
}

func config(t testing.TB) Config {
	return Config{
		Policy: PolicyStatic, Machine: two, Node: list("memory=1Gi cpu=1"), Reserved: map[int]corev1.ResourceList{0: list("memory=1Gi")},
		File: filepath.Join(t.TempDir(), "memory_manager_state"),
	}
}

func static(t *testing.T) *Memory {
	t.Helper()
	m, err := New(config(t))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func allocate(m *Memory, p *corev1.Pod, hint topology.Hint) string {
	var out []string
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			if err := m.Allocate(p, &cs[i], hint); err != nil {
				return err.Error()
			}
			out = append(out, "["+m.Nodes(p.UID, cs[i].Name).String()+"]")
		}
	}
	return strings.Join(out, " ")
}

func TestAllocate(t *testing.T) {
	huge := pod("p", ctr("a", "1Gi"))
	for _, l := range []corev1.ResourceList{huge.Spec.Containers[0].Resources.Requests, huge.Spec.Containers[0].Resources.Limits} {
		l["hugepages-2Mi"] = resource.MustParse("1Gi")
	}
	burstable := pod("p", ctr("a", "1Gi"))
	burstable.Spec.Containers[0].Resources.Limits = nil
	init := pod("p", ctr("a", "5Gi"))
	init.Spec.InitContainers = []corev1.Container{ctr("init", "5Gi")}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := init.DeepCopy()
	sidecar.Spec.InitContainers[0].RestartPolicy = &always
	for _, tc := range []struct {
		name string
		held []*corev1.Pod
		pod  *corev1.Pod
		hint topology.Hint
		want string
	}{
		{"from the first node", nil, pod("p", ctr("a", "5Gi")), anywhere, "[0]"},
		{"fits the second alone", nil, pod("p", ctr("a", "7Gi")), anywhere, "[1]"},
		{"as hinted", nil, pod("p", ctr("a", "1Gi")), topology.Hint{Nodes: numa.MaskOf(1), Preferred: true}, "[1]"},
		{"over two nodes", nil, pod("p", ctr("a", "10Gi")), anywhere, "[0,1]"},
		{"nowhere", nil, pod("p", ctr("a", "14Gi")), anywhere, "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"},
		{"two containers", nil, pod("p", ctr("a", "5Gi"), ctr("b", "5Gi")), anywhere, "[0] [1]"},
		{"an init container's memory is used again", nil, init, topology.Hint{Nodes: numa.MaskOf(0), Preferred: true}, "[0] [0]"},
		{"a sidecar's isn't", nil, sidecar, anywhere, "[0] [1]"},
		{"huge pages", nil, huge, anywhere, "[0]"},
		{"huge pages are taken there", []*corev1.Pod{func() *corev1.Pod { p := huge.DeepCopy(); p.UID = "h"; return p }()}, huge, anywhere, "[1]"},
		{"burstable", nil, burstable, anywhere, "[]"},
		{"a single node next to a pair", []*corev1.Pod{pod("h", ctr("a", "10Gi"))}, pod("p", ctr("a", "1Gi")), anywhere, "[memorymanager] failed to find the default preferred hint"},
		{"the pair again", []*corev1.Pod{pod("h", ctr("a", "8Gi"))}, pod("p", ctr("a", "1Gi")), topology.Hint{Nodes: numa.MaskOf(0, 1)}, "[0,1]"},
		{"a pair next to a single node", []*corev1.Pod{pod("h", ctr("a", "1Gi"))}, pod("p", ctr("a", "1Gi")), topology.Hint{Nodes: numa.MaskOf(0, 1), Preferred: true}, "[memorymanager] preferred hint violates NUMA node allocation"},
		{"the hint is too narrow", nil, pod("p", ctr("a", "7Gi")), topology.Hint{Nodes: numa.MaskOf(0)}, "[0,1]"},
		{"the hint is too narrow, and was preferred", nil, pod("p", ctr("a", "7Gi")), topology.Hint{Nodes: numa.MaskOf(0), Preferred: true}, "[memorymanager] failed to find the extended preferred hint"},
		{"no way to extend", []*corev1.Pod{pod("h", ctr("a", "1Gi"))}, pod("p", ctr("a", "7Gi")), topology.Hint{Nodes: numa.MaskOf(0)}, "[memorymanager] failed to find NUMA nodes to extend the current topology hint"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := static(t)
			for _, h := range tc.held {
				if got := allocate(m, h, anywhere); !strings.HasPrefix(got, "[0") {
					t.Fatal(got)
				}
			}
			if got := allocate(m, tc.pod, tc.hint); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestHints(t *testing.T) {
	show := func(h topology.Hints) string {
		var out []string
		for _, x := range h["memory"] {
			s := x.Nodes.String()
			if x.Preferred {
				s += "!"
			}
			out = append(out, s)
		}
		return fmt.Sprintf("%d kinds: %s", len(h), strings.Join(out, " "))
	}
	for _, tc := range []struct {
		name, memory, want string
		held               string
	}{
		{"anywhere", "1Gi", "1 kinds: 0! 1! 0,1", ""},
		{"a busy node is in no pair", "1Gi", "1 kinds: 0! 1!", "1Gi"},
		{"fits the second", "7Gi", "1 kinds: 1! 0,1", ""},
		{"fits both together", "10Gi", "1 kinds: 0,1!", ""},
		{"both are held together", "1Gi", "1 kinds: 0,1", "10Gi"},
		{"nowhere", "20Gi", "1 kinds: ", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := static(t)
			if tc.held != "" {
				allocate(m, pod("h", ctr("a", tc.held)), anywhere)
			}
			p := pod("p", ctr("a", tc.memory))
			if got := show(m.ContainerHints(p, &p.Spec.Containers[0])); got != tc.want {
				t.Errorf("container: %q, want %q", got, tc.want)
			}
			if got := show(m.PodHints(p)); got != tc.want {
				t.Errorf("pod: %q, want %q", got, tc.want)
			}
		})
	}
	m := static(t)
	p := pod("p", ctr("a", "1Gi"))
	allocate(m, p, topology.Hint{Nodes: numa.MaskOf(1), Preferred: true})
	if got := show(m.ContainerHints(p, &p.Spec.Containers[0])) + "; " + show(m.PodHints(p)); got != "1 kinds: 1!; 1 kinds: 1!" {
		t.Errorf("regenerated: %s", got)
	}
	p.Spec.Containers[0] = ctr("a", "2Gi")
	if got := show(m.ContainerHints(p, &p.Spec.Containers[0])); got != "1 kinds: " {
		t.Errorf("another request than what is allocated: %s", got)
	}
}

func TestReleaseAndRestart(t *testing.T) {
	m := static(t)
	if got := allocate(m, pod("p", ctr("a", "10Gi")), anywhere); got != "[0,1]" {
		t.Fatal(got)
	}
	again, err := New(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if b := again.Of("p", "a"); len(b) != 1 || b[0].Size != 10<<30 || b[0].Taken[0] != 6<<30 || b[0].Taken[1] != 4<<30 || fmt.Sprint(again.Pods()) != "[p]" {
		t.Errorf("after a restart: %+v", b)
	}
	for range 2 {
		if err := again.Release("p"); err != nil {
			t.Fatal(err)
		}
	}
	third, err := New(m.cfg)
	if err != nil || len(third.Pods()) != 0 {
		t.Fatal(err, third.Pods())
	}
	if got := allocate(third, pod("q", ctr("a", "13Gi")), anywhere); got != "[0,1]" {
		t.Errorf("everything is free again: %s", got)
	}
	if got := third.Allocatable(); len(got) != 4 || got[1].Size != 6<<30 || got[3].Size != 7<<30 {
		t.Errorf("Allocatable = %+v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	m := static(t)
	allocate(m, pod("p", ctr("a", "1Gi")), anywhere)
	for _, tc := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"no such policy", "give None or Static", func(c *Config) { c.Policy = "static" }},
		{"no such node", "references a NUMA node 7", func(c *Config) { c.Reserved[7] = list("memory=1") }},
		{"another sum", `the total amount "2Gi" of type "memory" is not equal to the value "1Gi"`, func(c *Config) { c.Reserved[1] = list("memory=1Gi") }},
		{"nothing reserved", "you should specify the system reserved memory", func(c *Config) { c.Reserved, c.Node = nil, nil }},
		{"another policy than before", `configured policy "None" differs from state checkpoint policy "Static", please drain`, func(c *Config) { c.Policy, c.File = PolicyNone, m.cfg.File }},
		{"another machine than before", "the expected machine state is different from the real one, please drain", func(c *Config) {
			c.File, c.Machine.Nodes = m.cfg.File, append([]numa.Node{}, c.Machine.Nodes...)
			c.Machine.Nodes[1].Memory = 1 << 30
		}},
		{"a torn checkpoint", "unexpected end of JSON input", func(c *Config) {
			if err := os.WriteFile(c.File, []byte(`{"`), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			tc.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
	none, err := New(Config{Machine: two})
	if err != nil {
		t.Fatal(err)
	}
	if got := allocate(none, pod("p", ctr("a", "100Gi")), anywhere); got != "[]" {
		t.Errorf("policy None: %s", got)
	}
}
