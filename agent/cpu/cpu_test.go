package cpu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

var anywhere = topology.Hint{Any: true, Preferred: true}

func ctr(name, cpu string) corev1.Container {
	list := corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse("1Mi")}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list, Limits: list}}
}

func pod(uid string, cs ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}, Spec: corev1.PodSpec{Containers: cs}}
}

func static(t *testing.T, m numa.Machine, change func(*Config)) *CPUs {
	t.Helper()
	cfg := Config{Policy: PolicyStatic, Machine: m, ReservedMilli: 500, File: filepath.Join(t.TempDir(), "cpu_manager_state")}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// allocate gives every container of the pod its CPUs and returns them in order.
func allocate(t *testing.T, c *CPUs, p *corev1.Pod) string {
	t.Helper()
	var out []string
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := c.Allocate(p, &list[i], anywhere); err != nil {
				return "error: " + err.Error()
			}
			got, own := c.Of(p.UID, list[i].Name)
			if !own {
				out = append(out, "shared")
				continue
			}
			out = append(out, got.String())
		}
	}
	return strings.Join(out, " ")
}

func TestWhoGetsCPUs(t *testing.T) {
	burstable := ctr("a", "2")
	burstable.Resources.Limits = nil
	whole := pod("p", ctr("a", "2"))
	whole.Spec.Resources = &corev1.ResourceRequirements{Limits: ctr("", "2").Resources.Limits, Requests: ctr("", "2").Resources.Requests}
	always := corev1.ContainerRestartPolicyAlways
	withInit := func(sidecar bool, cpu string, cs ...corev1.Container) *corev1.Pod {
		p := pod("p", cs...)
		p.Spec.InitContainers = []corev1.Container{ctr("init", cpu)}
		if sidecar {
			p.Spec.InitContainers[0].RestartPolicy = &always
		}
		return p
	}
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"whole CPUs", pod("p", ctr("a", "2")), "1,5"},
		{"a fraction", pod("p", ctr("a", "1500m")), "shared"},
		{"both in one pod", pod("p", ctr("a", "2"), ctr("b", "500m")), "1,5 shared"},
		{"two containers", pod("p", ctr("a", "2"), ctr("b", "3")), "1,5 2,4,6"},
		{"burstable", pod("p", burstable), "shared"},
		{"resources of the pod as a whole", whole, "shared"},
		{"too many", pod("p", ctr("a", "8")), "error: not enough cpus available to satisfy request: requested=8, available=7"},
		{"an init container's are used again", withInit(false, "2", ctr("a", "2")), "1,5 1,5"},
		{"a larger init container's are shared out", withInit(false, "4", ctr("a", "2"), ctr("b", "2")), "1-2,5-6 1,5 2,6"},
		{"a sidecar's are its own", withInit(true, "2", ctr("a", "2")), "1,5 2,6"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := allocate(t, static(t, single, nil), tc.pod); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPolicyNone(t *testing.T) {
	c, err := New(Config{Machine: single})
	if err != nil {
		t.Fatal(err)
	}
	if got := allocate(t, c, pod("p", ctr("a", "2"))); got != "shared" {
		t.Error(got)
	}
	if set, _ := c.Of("p", "a"); !set.IsEmpty() {
		t.Errorf("a cpuset of %s under the policy none", set)
	}
}

func TestReleaseAndRestart(t *testing.T) {
	c := static(t, single, nil)
	if got := allocate(t, c, pod("p", ctr("a", "4"), ctr("b", "500m"))); got != "1-2,5-6 shared" {
		t.Fatal(got)
	}
	if got, _ := c.Of("p", "b"); got.String() != "0,3-4,7" {
		t.Errorf("shared pool = %s", got)
	}
	again, err := New(c.cfg) // an agent after this one
	if err != nil {
		t.Fatal(err)
	}
	if got, own := again.Of("p", "a"); got.String() != "1-2,5-6" || !own || fmt.Sprint(again.Pods()) != "[p]" || !again.HasExclusive("p") {
		t.Errorf("after a restart: %s", got)
	}
	if got := allocate(t, again, pod("p", ctr("a", "4"), ctr("b", "500m"))); got != "1-2,5-6 shared" {
		t.Errorf("admitted again: %s", got)
	}
	for i, want := range []bool{true, false} {
		if had, err := again.Release("p"); had != want || err != nil {
			t.Errorf("release %d: %t, %v", i, had, err)
		}
	}
	third, err := New(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := third.Of("x", "a"); got.String() != "0-7" {
		t.Errorf("shared pool after the release = %s", got)
	}
}

func TestStateThatDoesNotFit(t *testing.T) {
	c := static(t, single, nil)
	allocate(t, c, pod("p", ctr("a", "2")))
	for _, tc := range []struct {
		name, want string
		change     func(*Config)
		state      string
	}{
		{"another policy", `configured policy "none" differs from state checkpoint policy "static", please drain this node and delete the CPU manager checkpoint file`, func(c *Config) { c.Policy = PolicyNone }, ""},
		{"another machine", "doesn't match with CPUs in state", func(c *Config) { c.Machine = flat }, ""},
		{"other reserved CPUs", "not all reserved cpus", func(c *Config) { c.Reserved = cpuset.New(1) }, ""},
		{"strict from now on", "doesn't match with CPUs in state", func(c *Config) { c.Options = map[string]string{"strict-cpu-reservation": "true"} }, ""},
		{"torn", "unexpected end of JSON input", nil, `{"policyName":"static"`},
		{"overlap", "overlaps with default cpuset", nil, `{"policyName":"static","defaultCpuSet":"0-7","entries":{"p":{"a":"1"}}}`},
		{"no set", "could not parse default CPU set", nil, `{"policyName":"static","defaultCpuSet":"x"}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := c.cfg
			if tc.change != nil {
				tc.change(&cfg)
			}
			if tc.state != "" {
				cfg.File = filepath.Join(t.TempDir(), "state")
				if err := os.WriteFile(cfg.File, []byte(tc.state), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{Policy: "exclusive"}, "give none or static"},
		{Config{Options: map[string]string{"full-pcpus-only": "true"}}, "takes no policy options"},
		{Config{Policy: PolicyStatic}, "greater than zero"},
		{Config{Policy: PolicyStatic, Reserved: cpuset.New(9)}, "the machine has 0-7"},
		{Config{Policy: PolicyStatic, ReservedMilli: 9000}, "not enough cpus"},
		{Config{Policy: PolicyStatic, ReservedMilli: 1, Options: map[string]string{"x": "true"}}, "unknown CPU Manager Policy option"},
		{Config{Policy: PolicyStatic, ReservedMilli: 1, Options: map[string]string{"align-by-socket": "true"}}, "not stable upstream"},
		{Config{Policy: PolicyStatic, ReservedMilli: 1, Options: map[string]string{"full-pcpus-only": "yes"}}, "give true or false"},
	} {
		tc.cfg.Machine = single
		if _, err := New(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.cfg, err, tc.want)
		}
	}
}

func TestFullCoresOnly(t *testing.T) {
	c := static(t, single, func(c *Config) { c.Options = map[string]string{"full-pcpus-only": "true"} })
	for _, tc := range []struct{ cpus, want string }{
		{"3", "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"},
		{"8", "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2"},
	} {
		p := pod("p", ctr("a", tc.cpus))
		err := c.Allocate(p, &p.Spec.Containers[0], anywhere)
		var smt *SMTError
		if !errors.As(err, &smt) || err.Error() != tc.want {
			t.Errorf("%s CPUs: %v, want %q", tc.cpus, err, tc.want)
		}
	}
	if got := allocate(t, c, pod("p", ctr("a", "6"))); got != "1-3,5-7" {
		t.Error(got)
	}
}

func TestStrictReservation(t *testing.T) {
	c := static(t, single, func(c *Config) {
		c.Reserved, c.Options = set(t, "0,4"), map[string]string{"strict-cpu-reservation": "true"}
	})
	if got, _ := c.Of("p", "a"); got.String() != "1-3,5-7" || c.Allocatable().String() != "1-3,5-7" {
		t.Errorf("shared pool = %s", got)
	}
	if got := allocate(t, c, pod("p", ctr("a", "6"))); got != "1-3,5-7" {
		t.Error(got)
	}
}

func TestHints(t *testing.T) {
	show := func(h topology.Hints) string {
		if h == nil {
			return "no preference"
		}
		var out []string
		for _, x := range h["cpu"] {
			s := x.Nodes.String()
			if x.Preferred {
				s += "!"
			}
			out = append(out, s)
		}
		return strings.Join(out, " ")
	}
	for _, tc := range []struct {
		name string
		cpus string
		held []string // what other pods have
		want string
	}{
		{"a fraction", "1500m", nil, "no preference"},
		{"fits each node", "4", nil, "0! 1! 0,1"},
		{"fits the second alone: a CPU of the first is reserved", "6", nil, "1! 0,1"},
		{"larger than a node", "8", nil, "0,1!"},
		{"would fit a node, were it free", "4", []string{"3", "3"}, "0,1"},
		{"fits nowhere", "12", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := static(t, dual, nil)
			for i, n := range tc.held {
				p := pod(fmt.Sprint("held", i), ctr("a", n))
				if err := c.Allocate(p, &p.Spec.Containers[0], topology.Hint{Nodes: numa.MaskOf(i)}); err != nil {
					t.Fatal(err)
				}
			}
			p := pod("p", ctr("a", tc.cpus))
			if got := show(c.ContainerHints(p, &p.Spec.Containers[0])); got != tc.want {
				t.Errorf("container: %q, want %q", got, tc.want)
			}
			if got := show(c.PodHints(p)); got != tc.want {
				t.Errorf("pod: %q, want %q", got, tc.want)
			}
		})
	}
	// What is allocated already says where it lies.
	c := static(t, dual, nil)
	p := pod("p", ctr("a", "2"), ctr("b", "2"))
	for i := range p.Spec.Containers {
		if err := c.Allocate(p, &p.Spec.Containers[i], topology.Hint{Nodes: numa.MaskOf(1)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := show(c.ContainerHints(p, &p.Spec.Containers[0])) + "; " + show(c.PodHints(p)); got != "1! 0,1; 1! 0,1" {
		t.Error(got)
	}
	if got, _ := c.Of("p", "a"); !got.IsSubsetOf(dual.In(numa.MaskOf(1))) {
		t.Errorf("CPUs on node 1: %s", got)
	}
}
