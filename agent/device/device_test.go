package device_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/mote-edge/mote/agent/device"
	"github.com/mote-edge/mote/agent/device/devicetest"
	"github.com/mote-edge/mote/agent/numa"
	"github.com/mote-edge/mote/agent/topology"
)

const thing = "example.com/thing"

var anywhere = topology.Hint{Any: true, Preferred: true}

// node is an agent's device plugins, run until the test ends or stop is called.
type node struct {
	*device.Plugins
	dir     string
	changed chan struct{}
	sick    chan []types.UID
	stop    func()
}

func start(t *testing.T, dir string) *node {
	t.Helper()
	n := &node{dir: dir, changed: make(chan struct{}, 100), sick: make(chan []types.UID, 100)}
	var err error
	n.Plugins, err = device.New(device.Config{
		Dir: dir, Nodes: numa.MaskOf(0, 1), Log: slog.New(slog.DiscardHandler),
		Changed: func() { n.changed <- struct{}{} }, Sick: func(uids []types.UID) { n.sick <- uids },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	<-n.Ready() // it removes what sockets it finds first: plugins watch for its own
	stopped := false
	n.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(n.stop)
	return n
}

// dir is short: a socket's path may have 107 bytes.
func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

func (n *node) plugin(t *testing.T, p *devicetest.Plugin, devices ...*pluginapi.Device) *devicetest.Plugin {
	t.Helper()
	p.Dir = n.dir
	if p.Resource == "" {
		p.Resource = thing
	}
	if p.Socket == "" {
		p.Socket = "thing.sock"
	}
	p.Set(devices...)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if err := p.Register(context.Background()); err != nil {
		t.Fatal(err)
	}
	return p
}

// until waits for the capacity to read "capacity/allocatable" of a resource.
func (n *node) until(t *testing.T, name, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		capacity, allocatable := n.Capacity()
		c, ok := capacity[corev1.ResourceName(name)]
		a := allocatable[corev1.ResourceName(name)]
		got := fmt.Sprintf("%d/%d", c.Value(), a.Value())
		if !ok {
			got = "none"
		}
		if got == want {
			return
		}
		select {
		case <-n.changed:
		case <-deadline:
			t.Fatalf("capacity of %s is %s, want %s", name, got, want)
		}
	}
}

func ctr(name, count string) corev1.Container {
	l := corev1.ResourceList{thing: resource.MustParse(count)}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: l, Requests: l}}
}

func pod(uid string, cs ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}, Spec: corev1.PodSpec{Containers: cs}}
}

func (n *node) allocate(p *corev1.Pod, hint topology.Hint) string {
	var out []string
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := n.Allocate(context.Background(), p, &list[i], hint); err != nil {
				return err.Error()
			}
			var ids []string
			for _, h := range n.Of(p.UID, list[i].Name) {
				ids = append(ids, h.ID)
			}
			out = append(out, strings.Join(ids, ","))
		}
	}
	return strings.Join(out, " ")
}

func healthy(ids ...string) (out []*pluginapi.Device) {
	for _, id := range ids {
		out = append(out, devicetest.Device(id, true))
	}
	return out
}

func TestAllocation(t *testing.T) {
	n := start(t, dir(t))
	p := n.plugin(t, &devicetest.Plugin{Options: pluginapi.DevicePluginOptions{PreStartRequired: true}, Answer: func(ids []string) (*pluginapi.ContainerAllocateResponse, error) {
		return &pluginapi.ContainerAllocateResponse{
			Envs: map[string]string{"THINGS": strings.Join(ids, ",")}, Annotations: map[string]string{"things": "yes"},
			Mounts:     []*pluginapi.Mount{{ContainerPath: "/lib/thing", HostPath: "/opt/thing", ReadOnly: true}},
			Devices:    []*pluginapi.DeviceSpec{{ContainerPath: "/dev/thing", HostPath: "/dev/null", Permissions: "rw"}},
			CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/thing=" + ids[0]}},
		}, nil
	}}, append(healthy("a", "b", "c"), devicetest.Device("d", false))...)
	n.until(t, thing, "4/3")
	if got := n.allocate(pod("1", ctr("x", "2")), anywhere); got != "a,b" {
		t.Errorf("first pod: %s", got)
	}
	if got := n.allocate(pod("2", ctr("x", "2")), anywhere); got != "requested number of devices unavailable for example.com/thing. Requested: 2, Available: 1" {
		t.Errorf("second pod: %s", got)
	}
	if got := n.allocate(pod("1", ctr("x", "2")), anywhere); got != "a,b" {
		t.Errorf("the same again: %s", got)
	}
	if got := n.allocate(pod("1", ctr("x", "1")), anywhere); got != `pod "1" container "x" changed request for resource "example.com/thing" from 2 to 1` {
		t.Errorf("another number: %s", got)
	}
	c := ctr("x", "2")
	g, err := n.Prepare(context.Background(), pod("1", c), &c)
	if err != nil || len(g.Env) != 1 || string(g.Env[0].Value) != "a,b" || g.Annotations["things"] != "yes" || len(g.Mounts) != 1 || !g.Mounts[0].Readonly ||
		len(g.Devices) != 1 || g.Devices[0].HostPath != "/dev/null" || len(g.CDI) != 1 || g.CDI[0].Name != "example.com/thing=a" {
		t.Errorf("grant = %+v, %v", g, err)
	}
	if got := fmt.Sprint(p.Calls()); got != "[Allocate [a b] PreStart [a b]]" {
		t.Errorf("calls: %s", got)
	}
	for range 2 {
		if err := n.Release("1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.allocate(pod("2", ctr("x", "3")), anywhere); got != "a,b,c" || len(n.All()) != 3 {
		t.Errorf("after the release: %s", got)
	}
	other := corev1.Container{Name: "x", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"example.com/unknown": resource.MustParse("1")}}}
	if got := n.allocate(pod("3", other), anywhere); got != "" {
		t.Errorf("a resource that no plugin serves: %s", got)
	}
}

func TestInitContainersLeaveTheirDevices(t *testing.T) {
	n := start(t, dir(t))
	n.plugin(t, &devicetest.Plugin{}, healthy("a", "b", "c")...)
	n.until(t, thing, "3/3")
	p := pod("1", ctr("x", "1"), ctr("y", "1"))
	p.Spec.InitContainers = []corev1.Container{ctr("init", "2")}
	if got := n.allocate(p, anywhere); got != "a,b a b" {
		t.Error(got)
	}
	always := corev1.ContainerRestartPolicyAlways
	p = pod("2", ctr("x", "1"))
	p.Spec.InitContainers = []corev1.Container{ctr("sidecar", "1")}
	p.Spec.InitContainers[0].RestartPolicy = &always
	if got := n.allocate(p, anywhere); got != "requested number of devices unavailable for example.com/thing. Requested: 1, Available: 0" {
		t.Error(got)
	}
}

func TestPluginThatRefuses(t *testing.T) {
	n := start(t, dir(t))
	n.plugin(t, &devicetest.Plugin{Answer: func([]string) (*pluginapi.ContainerAllocateResponse, error) { return nil, errors.New("no way") }}, healthy("a")...)
	n.until(t, thing, "1/1")
	if got := n.allocate(pod("1", ctr("x", "1")), anywhere); got != "rpc error: code = Unknown desc = no way" {
		t.Error(got)
	}
	if len(n.Pods()) != 0 {
		t.Error("devices are held after a refusal")
	}
}

func TestPreferredAllocation(t *testing.T) {
	n := start(t, dir(t))
	p := n.plugin(t, &devicetest.Plugin{
		Options: pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true},
		Prefer:  func(_, _ []string, _ int) []string { return []string{"d", "b", "unknown"} },
	}, healthy("a", "b", "c", "d")...)
	n.until(t, thing, "4/4")
	if got := n.allocate(pod("1", ctr("x", "2")), anywhere); got != "b,d" {
		t.Error(got)
	}
	if got := n.allocate(pod("2", ctr("x", "2")), anywhere); got != "a,c" { // what it prefers is gone
		t.Error(got)
	}
	if got := p.Calls()[0]; got != "Prefer [a b c d] [] 2" {
		t.Error(got)
	}
}

func TestTopology(t *testing.T) {
	n := start(t, dir(t))
	n.plugin(t, &devicetest.Plugin{}, devicetest.Device("a0", true, 0), devicetest.Device("b1", true, 1), devicetest.Device("c1", true, 1), devicetest.Device("d", true))
	n.until(t, thing, "4/4")
	show := func(count string) string {
		c := ctr("x", count)
		one, whole := fmt.Sprint(n.ContainerHints(pod("1", c), &c)), fmt.Sprint(n.PodHints(pod("1", c)))
		if one != whole {
			t.Errorf("hints of the container %s, of the pod %s", one, whole)
		}
		return one
	}
	for count, want := range map[string]string{
		"1": "map[example.com/thing:[{0 false true} {1 false true} {0,1 false false}]]",
		"2": "map[example.com/thing:[{1 false true} {0,1 false false}]]",
		"3": "map[example.com/thing:[{0,1 false true}]]",
		"9": "map[example.com/thing:[]]",
	} {
		if got := show(count); got != want {
			t.Errorf("%s devices: %s, want %s", count, got, want)
		}
	}
	if got := n.allocate(pod("1", ctr("x", "2")), topology.Hint{Nodes: numa.MaskOf(1), Preferred: true}); got != "b1,c1" {
		t.Error(got)
	}
	if got := n.allocate(pod("2", ctr("x", "1")), topology.Hint{Nodes: numa.MaskOf(1)}); got != "a0" { // a far one before one without a place
		t.Error(got)
	}
	if h := n.Of("1", "x"); len(h) != 2 || fmt.Sprint(h[0].Nodes) != "[1]" || !h[0].Healthy {
		t.Errorf("held: %+v", h)
	}
}

func TestHealth(t *testing.T) {
	n := start(t, dir(t))
	p := n.plugin(t, &devicetest.Plugin{}, healthy("a", "b")...)
	n.until(t, thing, "2/2")
	n.allocate(pod("1", ctr("x", "1")), anywhere)
	p.Set(devicetest.Device("a", false), devicetest.Device("b", true))
	n.until(t, thing, "2/1")
	if got := <-n.sick; len(got) != 1 || got[0] != "1" {
		t.Errorf("told of %v", got)
	}
	if got := fmt.Sprint(n.Health("1", "x")); got != "[{example.com/thing [{a Unhealthy <nil>}]}]" {
		t.Error(got)
	}
	if got := n.allocate(pod("1", ctr("x", "1")), anywhere); got != "previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.com/thing" {
		t.Error(got)
	}
	p.Set(devicetest.Device("a", false))
	n.until(t, thing, "1/0")
	if got := n.allocate(pod("2", ctr("x", "1")), anywhere); got != "no healthy devices present; cannot allocate unhealthy devices example.com/thing" {
		t.Error(got)
	}
}

func TestRestartOfTheAgent(t *testing.T) {
	d := dir(t)
	n := start(t, d)
	p := n.plugin(t, &devicetest.Plugin{}, healthy("a", "b")...)
	n.until(t, thing, "2/2")
	n.allocate(pod("1", ctr("x", "1")), anywhere)
	n.stop()
	p.Stop()

	n = start(t, d)
	n.until(t, thing, "0/0") // known, and empty until the plugin is back
	c := ctr("x", "1")
	if g, err := n.Prepare(context.Background(), pod("1", c), &c); err != nil || len(g.Env) != 1 || string(g.Env[0].Value) != "a" {
		t.Errorf("a container that starts again has %+v, %v", g, err)
	}
	n.plugin(t, &devicetest.Plugin{}, healthy("a", "b")...)
	n.until(t, thing, "2/2")
	if got := n.allocate(pod("2", ctr("x", "1")), anywhere); got != "b" {
		t.Errorf("the other device: %s", got)
	}
}

func TestRestartOfThePlugin(t *testing.T) {
	n := start(t, dir(t))
	p := n.plugin(t, &devicetest.Plugin{}, healthy("a")...)
	n.until(t, thing, "1/1")
	p.Stop()
	n.until(t, thing, "1/0")
	n.plugin(t, &devicetest.Plugin{Socket: "other.sock"}, healthy("a", "b")...) // a new version, beside
	n.until(t, thing, "2/2")
	n.plugin(t, &devicetest.Plugin{Socket: "third.sock"}, healthy("a", "b", "c")...) // both at a time: the last one counts
	n.until(t, thing, "3/3")
}

func TestRegistrationIsRefused(t *testing.T) {
	n := start(t, dir(t))
	for _, tc := range []struct{ name, want string }{
		{"thing", `the ResourceName "thing" is invalid`},
		{"kubernetes.io/thing", "is invalid"},
		{"requests.example.com/thing", "is invalid"},
	} {
		p := &devicetest.Plugin{Resource: tc.name, Dir: n.dir, Socket: "x.sock"}
		if err := p.Register(context.Background()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	if err := n.Validate(thing, "", []string{"v1alpha"}); err == nil || !strings.Contains(err.Error(), `"v1alpha" is not supported`) {
		t.Error(err)
	}
	p := &devicetest.Plugin{Resource: thing, Dir: n.dir, Socket: "../x.sock"}
	if err := p.Register(context.Background()); err == nil || !strings.Contains(err.Error(), "is not the name of a socket") {
		t.Error(err)
	}
}

func TestBrokenCheckpoint(t *testing.T) {
	d := dir(t)
	if err := os.WriteFile(filepath.Join(d, "kubelet_internal_checkpoint"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := device.New(device.Config{Dir: d}); err == nil || !strings.Contains(err.Error(), "drain the node") {
		t.Error(err)
	}
}

// An extended resource that a claim stands for is no plugin's matter.
func TestClaimedResource(t *testing.T) {
	n := start(t, dir(t))
	p := n.plugin(t, &devicetest.Plugin{}, healthy("a")...)
	n.until(t, thing, "1/1")
	x := pod("1", ctr("x", "1"))
	x.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "x", ResourceName: thing}}}
	if got := n.allocate(x, anywhere); got != "" || len(p.Calls()) != 0 {
		t.Errorf("allocated %q, calls %v", got, p.Calls())
	}
}
