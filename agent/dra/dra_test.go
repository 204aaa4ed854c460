package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	draapi "k8s.io/kubelet/pkg/apis/dra/v1"
)

// fakeDriver prepares a device for each claim, and remembers what it was asked.
type fakeDriver struct {
	draapi.UnimplementedDRAPluginServer
	mu    sync.Mutex
	calls []string
	fail  string
}

func (f *fakeDriver) NodePrepareResources(_ context.Context, req *draapi.NodePrepareResourcesRequest) (*draapi.NodePrepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &draapi.NodePrepareResourcesResponse{Claims: map[string]*draapi.NodePrepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		f.calls = append(f.calls, "prepare "+c.GetName())
		out.Claims[c.GetUid()] = &draapi.NodePrepareResourceResponse{Error: f.fail, Devices: []*draapi.Device{
			{RequestNames: []string{"gpu"}, PoolName: "node", DeviceName: "gpu0", CdiDeviceIds: []string{"example.com/gpu=" + c.GetName() + "-0"}},
			{PoolName: "node", DeviceName: "bus", CdiDeviceIds: []string{"example.com/bus=" + c.GetName()}},
		}}
	}
	return out, nil
}

func (f *fakeDriver) NodeUnprepareResources(_ context.Context, req *draapi.NodeUnprepareResourcesRequest) (*draapi.NodeUnprepareResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &draapi.NodeUnprepareResourcesResponse{Claims: map[string]*draapi.NodeUnprepareResourceResponse{}}
	for _, c := range req.GetClaims() {
		f.calls = append(f.calls, "unprepare "+c.GetName())
		out.Claims[c.GetUid()] = &draapi.NodeUnprepareResourceResponse{Error: f.fail}
	}
	return out, nil
}

func (f *fakeDriver) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := strings.Join(f.calls, ", ")
	f.calls = nil
	return out
}

func (f *fakeDriver) failing(why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = why
}

// fakeAPI has claims by name.
type fakeAPI map[string]*resourcev1.ResourceClaim

func (a fakeAPI) ResourceClaim(_ context.Context, _, name string) (*resourcev1.ResourceClaim, error) {
	if c := a[name]; c != nil {
		return c, nil
	}
	return nil, errors.New("not found")
}
func (fakeAPI) SliceDrivers(context.Context) ([]string, error) { return nil, nil }
func (fakeAPI) DeleteSlices(context.Context, string) error     { return nil }

func claim(name string, pods ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	c.Status.Allocation = &resourcev1.AllocationResult{}
	c.Status.Allocation.Devices.Results = []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: "example.com", Pool: "node", Device: "gpu0"}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	return c
}

func pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	c := corev1.Container{Name: "c"}
	for _, cl := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "as-" + cl, ResourceClaimName: &cl})
		c.Resources.Claims = append(c.Resources.Claims, corev1.ResourceClaim{Name: "as-" + cl})
	}
	p.Spec.Containers = []corev1.Container{c}
	return p
}

// node is a node's claims with one driver.
func node(t *testing.T, file string, api API) (*Claims, *fakeDriver) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "d.sock"))
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeDriver{}
	s := grpc.NewServer()
	draapi.RegisterDRAPluginServer(s, f)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c, err := New(ctx, Config{API: api, File: file, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Drivers().Register(ctx, "example.com", filepath.Join(dir, "d.sock"), []string{draapi.DRAPluginService}); err != nil {
		t.Fatal(err)
	}
	return c, f
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestLifeOfAClaim(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state")
	api := fakeAPI{"a": claim("a", "p", "q"), "b": claim("b", "p")}
	c, f := node(t, file, api)
	p, q := pod("p", "b", "a"), pod("q", "a")
	for range 2 { // idempotent
		if err := c.Prepare(within(t), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Prepare(within(t), q); err != nil {
		t.Fatal(err)
	}
	if got := f.said(); got != "prepare a, prepare b" {
		t.Errorf("asked: %s", got)
	}
	ids, err := c.Container(p, &p.Spec.Containers[0])
	if err != nil || fmt.Sprint(ids) != "[example.com/gpu=b-0 example.com/bus=b example.com/gpu=a-0 example.com/bus=a]" {
		t.Errorf("CDI devices: %v, %v", ids, err)
	}
	p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "as-a", Request: "other"}}
	if ids, err = c.Container(p, &p.Spec.Containers[0]); err != nil || fmt.Sprint(ids) != "[example.com/bus=a]" {
		t.Errorf("CDI devices of another request: %v, %v", ids, err)
	}
	if in := c.Of(q, &q.Spec.Containers[0]); len(in) != 1 || in[0].Claim != "a" || len(in[0].Devices["example.com"]) != 2 {
		t.Errorf("in use: %+v", in)
	}

	again, f := node(t, file, nil) // an agent after this one, without its API server
	if err := again.Prepare(within(t), pod("p", "a", "b")); err != nil || f.said() != "" {
		t.Errorf("adopted: %v", err)
	}
	if fmt.Sprint(again.Pods()) != "[p q]" {
		t.Errorf("pods: %v", again.Pods())
	}
	if err := again.Release(within(t), "p"); err != nil {
		t.Fatal(err)
	}
	if got := f.said(); got != "unprepare b" { // a is q's, too
		t.Errorf("asked: %s", got)
	}
	f.failing("busy")
	if err := again.Release(within(t), "q"); err == nil || !strings.Contains(err.Error(), "NodeUnprepareResources failed for ResourceClaim a: busy") {
		t.Errorf("a driver that can't: %v", err)
	}
	f.failing("")
	for range 2 {
		if err := again.Release(within(t), "q"); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.said(); got != "unprepare a, unprepare a" || len(again.Pods()) != 0 {
		t.Errorf("asked: %s; pods left: %v", got, again.Pods())
	}
}

func TestPrepareRefuses(t *testing.T) {
	unallocated := claim("free", "p")
	unallocated.Status.Allocation = nil
	foreign := claim("foreign", "p")
	foreign.Status.Allocation.Devices.Results[0].Driver = "other.com"
	template := "t"
	waiting := pod("p")
	waiting.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: &template}}
	made := waiting.DeepCopy()
	name := "ours"
	made.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &name}}
	for _, tc := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{pod("p", "ours"), ""},
		{pod("p", "none"), "fetch ResourceClaim none: not found"},
		{pod("other", "ours"), "pod other (other) is not allowed to use ResourceClaim ours (uid-ours)"},
		{pod("p", "free"), "ResourceClaim ns/free is not allocated"},
		{pod("p", "foreign"), "DRA driver other.com is not registered"},
		{waiting, "has not been created yet"},
		{made, "was not created for pod ns/p (pod is not owner)"},
	} {
		c, _ := node(t, filepath.Join(t.TempDir(), "state"), fakeAPI{"ours": claim("ours", "p"), "free": unallocated, "foreign": foreign})
		err := c.Prepare(within(t), tc.pod)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%v, want %q", err, tc.want)
		}
		if tc.want != "" && len(c.Pods()) != 0 {
			t.Errorf("%s: something is held", tc.want)
		}
	}
}

func TestDriverThatFails(t *testing.T) {
	c, f := node(t, filepath.Join(t.TempDir(), "state"), fakeAPI{"a": claim("a", "p")})
	f.failing("no")
	p := pod("p", "a")
	if err := c.Prepare(within(t), p); err == nil || !strings.HasSuffix(err.Error(), "NodePrepareResources failed for ResourceClaim a: no") {
		t.Error(err)
	}
	if _, err := c.Container(p, &p.Spec.Containers[0]); err == nil {
		t.Error("a container may start with a claim that isn't prepared")
	}
	f.failing("")
	if err := c.Prepare(within(t), p); err != nil {
		t.Error(err)
	}
}

func TestRegistration(t *testing.T) {
	c, _ := node(t, filepath.Join(t.TempDir(), "state"), nil)
	d := c.Drivers()
	if err := d.Validate("x", "/x", []string{"v1alpha3.Node"}); err == nil || !strings.Contains(err.Error(), "are supported by the kubelet") {
		t.Error(err)
	}
	d.mu.Lock()
	endpoint := d.known["example.com"][0].endpoint
	d.mu.Unlock()
	if err := d.Register(within(t), "example.com", endpoint, []string{draapi.DRAPluginService}); err == nil || !strings.Contains(err.Error(), "already registered") {
		t.Error(err)
	}
	d.Deregister("example.com", endpoint)
	d.Deregister("example.com", endpoint)
	if _, err := d.get("example.com"); err == nil {
		t.Error("a driver that has left is still asked")
	}
}
