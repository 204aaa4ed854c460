package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestMain runs the tests in a network namespace of their own, with one link.
func TestMain(m *testing.M) {
	const marker = "MOTE_NODE_TEST_NS"
	if os.Getuid() != 0 || os.Getenv(marker) != "" {
		if os.Getuid() == 0 {
			if out, err := exec.Command("sh", "-ec", "ip link set lo up; ip link add eth9 type veth peer name eth9p; ip addr add 192.0.2.1/24 dev eth9; ip link set eth9 mtu 1400 up; ip link set eth9p up; ip route add default via 192.0.2.254").CombinedOutput(); err != nil {
				fmt.Fprintln(os.Stderr, string(out), err)
				os.Exit(1)
			}
		}
		os.Exit(m.Run())
	}
	self := exec.Command("/proc/self/exe", os.Args[1:]...)
	self.Stdout, self.Stderr = os.Stdout, os.Stderr
	self.Env = append(os.Environ(), marker+"=1")
	self.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	if err := self.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var nodes = schema.GroupResource{Resource: "nodes"}

// server is a small working API server for nodes and one lease.
type server struct {
	mu      sync.Mutex
	nodes   map[string]*corev1.Node
	watch   *watch.RaceFreeFakeWatcher
	renewed int
	creates int
	patches int
}

func newServer() *server {
	return &server{nodes: map[string]*corev1.Node{}, watch: watch.NewRaceFreeFake()}
}

func (s *server) put(n *corev1.Node) {
	_, had := s.nodes[n.Name]
	s.nodes[n.Name] = n
	if had {
		s.watch.Modify(n.DeepCopy())
	} else {
		s.watch.Add(n.DeepCopy())
	}
}

func (s *server) CreateNode(_ context.Context, n *corev1.Node) (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[n.Name] != nil {
		return nil, apierrors.NewAlreadyExists(nodes, n.Name)
	}
	s.creates++
	s.put(n.DeepCopy())
	return n, nil
}

func (s *server) GetNode(context.Context) (*corev1.Node, error) { return s.get("n1") }

func (s *server) get(name string) (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		return n.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(nodes, name)
}

func (s *server) PatchNode(_ context.Context, patch []byte, _ ...string) (*corev1.Node, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.nodes["n1"]
	if old == nil {
		return nil, apierrors.NewNotFound(nodes, "n1")
	}
	s.patches++
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Node{})
	if err != nil {
		return nil, err
	}
	out := &corev1.Node{}
	if err := json.Unmarshal(after, out); err != nil {
		return nil, err
	}
	s.put(out)
	return out, nil
}

func (s *server) ListNodes(context.Context, metav1.ListOptions) (*corev1.NodeList, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &corev1.NodeList{}
	l.ResourceVersion = "1"
	for _, n := range s.nodes {
		l.Items = append(l.Items, *n.DeepCopy())
	}
	return l, nil
}

// WatchNodes knows no streamed lists, so the reflector lists first. Its one watch is never closed.
func (s *server) WatchNodes(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if o.SendInitialEvents != nil {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
	}
	return unstoppable{s.watch}, nil
}

type unstoppable struct{ *watch.RaceFreeFakeWatcher }

func (unstoppable) Stop() {}

func (s *server) RenewLease(context.Context, *corev1.Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed++
	return nil
}

// fakeRuntime is a runtime whose network becomes ready with the CNI configuration.
type fakeRuntime struct {
	dir  string
	mu   sync.Mutex
	down bool
}

func (r *fakeRuntime) Status(context.Context) (*runtimeapi.StatusResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return nil, errors.New("connection refused")
	}
	network := &runtimeapi.RuntimeCondition{Type: "NetworkReady", Reason: "NetworkPluginNotReady", Message: "Network plugin returns error: cni plugin not initialized"}
	if _, err := os.Stat(filepath.Join(r.dir, conflist)); err == nil {
		network = &runtimeapi.RuntimeCondition{Type: "NetworkReady", Status: true}
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, network}}}, nil
}

func (r *fakeRuntime) Version(context.Context) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1.2"}, nil
}

func (r *fakeRuntime) Images(context.Context) ([]*runtimeapi.Image, error) {
	return []*runtimeapi.Image{{RepoTags: []string{"small:1"}, Size: 1}, {RepoTags: []string{"big:1"}, Size: 9}, {Size: 3}}, nil
}

func start(t *testing.T, s *server, r *fakeRuntime) (*Node, func() string) {
	t.Helper()
	var mu sync.Mutex
	var events []string
	n, err := New(Config{
		Name: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Labels: map[string]string{"zone": "a"}, KubeletPort: 10250, MaxPods: 110,
		DataDir: t.TempDir(), MaxImages: 50, AttachDetach: true, KubeletVersion: "v1.37.2+mote.test", CNI: CNIConfig{Dir: r.dir, StateDir: "/run/x", ClusterCIDR: "10.42.0.0/16"},
		API: s, Runtime: r, Routes: os.Getuid() == 0,
		Event: func(_, reason, message string) { mu.Lock(); events = append(events, reason); mu.Unlock() },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n, func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(events, " ") }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func condition(s *server, name string, kind corev1.NodeConditionType) corev1.NodeCondition {
	n, err := s.get(name)
	if err != nil {
		return corev1.NodeCondition{}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func TestLifeOfANode(t *testing.T) {
	s, r := newServer(), &fakeRuntime{dir: t.TempDir()}
	n, events := start(t, s, r)
	eventually(t, "the reason why it isn't ready", func() bool {
		return condition(s, "n1", corev1.NodeReady).Message == "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"
	})
	s.mu.Lock() // the address range controller's work
	own := s.nodes["n1"].DeepCopy()
	own.Spec.PodCIDR = "10.42.3.0/24"
	s.put(own)
	s.mu.Unlock()
	<-n.Ready()
	c := condition(s, "n1", corev1.NodeReady)
	if c.Status != corev1.ConditionTrue || c.Reason != "KubeletReady" || c.Message != "kubelet is posting ready status" {
		t.Errorf("ready: %+v", c)
	}
	conf, err := os.ReadFile(filepath.Join(r.dir, conflist))
	if err != nil || !strings.Contains(string(conf), `"subnet": "10.42.3.0/24"`) {
		t.Errorf("configuration: %s %v", conf, err)
	}
	if os.Getuid() == 0 && !strings.Contains(string(conf), `"mtu": 1400`) {
		t.Errorf("the link's MTU isn't used: %s", conf)
	}
	got, err := s.get("n1")
	if err != nil || got.Labels["zone"] != "a" || got.Labels[corev1.LabelHostname] != "n1" || got.Status.NodeInfo.ContainerRuntimeVersion != "fake://1.2" ||
		got.Status.Addresses[0].Address != "192.0.2.1" || len(got.Status.Images) != 2 || got.Status.Images[0].Names[0] != "big:1" || got.Status.Capacity.Pods().Value() != 110 {
		t.Errorf("node: %+v %v", got, err)
	}
	s.mu.Lock()
	own = s.nodes["n1"].DeepCopy()
	own.Spec.Unschedulable = true // kubectl cordon
	s.put(own)
	s.mu.Unlock()
	eventually(t, "event of the cordon", func() bool { return strings.Contains(events(), "NodeNotSchedulable") })
	s.mu.Lock()
	patches := s.patches
	delete(s.nodes, "n1")
	s.watch.Delete(own)
	s.mu.Unlock()
	eventually(t, "registration after deletion", func() bool { return condition(s, "n1", corev1.NodeReady).Status == corev1.ConditionTrue })
	if s.creates != 2 {
		t.Errorf("%d creations", s.creates)
	}
	if patches > 6 {
		t.Errorf("%d status patches until ready", patches)
	}
	r.mu.Lock()
	r.down = true
	r.mu.Unlock()
	n.Poke()
	eventually(t, "not ready without a runtime", func() bool {
		return condition(s, "n1", corev1.NodeReady).Message == "container runtime is down"
	})
	if s.renewed == 0 {
		t.Error("no lease")
	}
	for _, want := range []string{"Starting", "NodeReady", "NodeNotReady"} {
		eventually(t, "event "+want, func() bool { return strings.Contains(events(), want) })
	}
}

func TestAdoptsAnExistingNode(t *testing.T) {
	s, r := newServer(), &fakeRuntime{dir: t.TempDir()}
	old := &corev1.Node{}
	old.Name, old.Labels = "n1", map[string]string{"theirs": "x", "zone": "old"}
	old.Spec.Unschedulable = true
	old.Spec.PodCIDR = "10.42.9.0/24"
	old.Status.Conditions = []corev1.NodeCondition{{Type: "Others", Status: corev1.ConditionTrue}}
	old.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "203.0.113.9"}}
	s.put(old)
	n, _ := start(t, s, r)
	<-n.Ready()
	got, err := s.get("n1")
	if err != nil || got.Labels["theirs"] != "x" || got.Labels["zone"] != "a" || !got.Spec.Unschedulable {
		t.Errorf("node: %+v, %v", got, err)
	}
	if condition(s, "n1", "Others").Status != corev1.ConditionTrue {
		t.Error("somebody else's condition is lost")
	}
	if len(got.Status.Addresses) != 2 || got.Status.Addresses[0].Address != "192.0.2.1" {
		t.Errorf("addresses: %v", got.Status.Addresses)
	}
}

func TestRoutesFollowTheNodes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("routes need root")
	}
	s, r := newServer(), &fakeRuntime{dir: t.TempDir()}
	n, _ := start(t, s, r)
	other := func(name, cidr, ip string) *corev1.Node {
		o := &corev1.Node{}
		o.Name, o.Spec.PodCIDR = name, cidr
		o.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
		return o
	}
	foreign, err := netlink.ParseIPNet("10.42.200.0/24")
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("eth9")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: foreign}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) })
	has := func(want string) func() bool {
		return func() bool {
			routes, err := ourRoutes()
			if err != nil {
				t.Fatal(err)
			}
			var text []string
			for _, r := range routes {
				text = append(text, r.Dst.String()+">"+r.Gw.String())
			}
			return strings.Join(text, " ") == want
		}
	}
	put := func(o *corev1.Node) { s.mu.Lock(); s.put(o); s.mu.Unlock() }
	put(other("n2", "10.42.2.0/24", "192.0.2.2"))
	eventually(t, "a route", has("10.42.2.0/24>192.0.2.2"))
	put(other("n2", "10.42.2.0/24", "192.0.2.7"))
	eventually(t, "the new address", has("10.42.2.0/24>192.0.2.7"))
	put(other("far", "10.42.8.0/24", "198.51.100.1")) // behind a router: not ours to route
	s.mu.Lock()
	s.watch.Delete(other("n2", "", ""))
	s.mu.Unlock()
	eventually(t, "the route goes with its node", has(""))
	put(other("n3", "10.42.4.0/24", "192.0.2.3"))
	eventually(t, "another", has("10.42.4.0/24>192.0.2.3"))
	if err := errors.Join(n.Cleanup(), n.Cleanup()); err != nil || !has("")() {
		t.Errorf("clean-up: %v", err)
	}
	if routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: foreign}, netlink.RT_FILTER_DST); err != nil || len(routes) != 1 {
		t.Errorf("somebody else's route is gone: %v", err)
	}
}

func TestDefaultAddress(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the test's network needs root")
	}
	if a, err := defaultAddress(); err != nil || a.String() != "192.0.2.1" {
		t.Errorf("%v, %v", a, err)
	}
}

func TestAllocatable(t *testing.T) {
	f := facts{cpus: 2, memory: 1 << 30, disk: 100, hugePages: map[int64]int64{2 << 20: 4 << 20}}
	got := allocatable(f.capacity(10), corev1.ResourceList{"memory": resource.MustParse("24Mi"), "cpu": resource.MustParse("3")})
	if m := got["memory"]; m.Value() != 1<<30-28<<20 {
		t.Errorf("memory %s", m.String())
	}
	if c := got["cpu"]; c.Value() != 0 {
		t.Errorf("cpu %s", c.String())
	}
	if h := got["hugepages-2Mi"]; h.String() != "4Mi" {
		t.Errorf("huge pages: %v", got)
	}
}

func TestConditionsKeepTheTimeOfTheirChange(t *testing.T) {
	ok := &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}}
	t1, t2 := time.Unix(100, 0), time.Unix(200, 0)
	first := conditions(nil, observed{runtime: ok}, t1)
	second := conditions(first, observed{runtime: ok, memory: true, faults: errors.New("node is shutting down")}, t2)
	for _, c := range second {
		changed := c.Type == corev1.NodeMemoryPressure || c.Type == corev1.NodeReady
		if want := map[bool]time.Time{true: t2, false: t1}[changed]; !c.LastTransitionTime.Time.Equal(want) {
			t.Errorf("%s changed at %v", c.Type, c.LastTransitionTime)
		}
	}
	if got := fmt.Sprint(transitions(first, second)); got != "[NodeHasInsufficientMemory NodeNotReady]" {
		t.Errorf("transitions %s", got)
	}
	if got := second[3]; got.Message != "node is shutting down" || got.Reason != "KubeletNotReady" {
		t.Errorf("ready: %+v", got)
	}
}
