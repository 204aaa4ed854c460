package claims

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const driver = "example.com"

func slice(node string, devices ...string) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice-" + node}}
	s.Spec = resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}}
	for _, d := range devices {
		model := d
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: d, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &model}}})
	}
	return s
}

func claim(name, expression string) *resourcev1.ResourceClaim {
	exactly := &resourcev1.ExactDeviceRequest{DeviceClassName: "class", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}
	if expression != "" {
		exactly.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "gpu", Exactly: exactly}}}},
	}
}

func pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: c, ResourceClaimName: &c})
	}
	return p
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
}

// newClaims has a device class, and begins to watch.
func newClaims(t *testing.T, objects ...runtime.Object) (*Claims, chan struct{}) {
	t.Helper()
	client := fake.NewClientset(append(objects, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "class"}})...)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	watching := make(chan struct{}, 10)
	client.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		watching <- struct{}{} // what changes before is lost with a fake
		return true, w, err
	})
	changed := make(chan struct{}, 1000)
	c := New(client, informers.NewSharedInformerFactory(client, 0), func() { changed <- struct{}{} })
	c.Begin(ctx)
	c.Begin(ctx)
	until(t, changed, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.ready() })
	for range 4 {
		<-watching
	}
	return c, changed
}

func until(t *testing.T, changed chan struct{}, ok func() bool) {
	t.Helper()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("nothing changes any more")
		}
	}
}

// place shows where a pod could go: why not, by node.
func place(c *Claims, p *corev1.Pod, nodes ...string) string {
	pc, why := c.For(p)
	if why != "" {
		return why
	}
	if pc == nil {
		return "no claims"
	}
	out := ""
	for _, n := range nodes {
		answer := pc.Fits(node(n))
		if answer == "" {
			answer = "fits"
		}
		out += n + ": " + answer + "; "
	}
	return out
}

func TestPlaces(t *testing.T) {
	elsewhere := claim("elsewhere", "")
	elsewhere.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}},
	}}}}
	other := claim("other-class", "")
	other.Spec.Devices.Requests[0].Exactly.DeviceClassName = "none"
	going := claim("going", "")
	now := metav1.Now()
	going.DeletionTimestamp, going.Finalizers = &now, []string{"x"}
	c, _ := newClaims(t, slice("a", "one"), slice("b", "two", "three"),
		claim("any", ""), claim("any2", ""), claim("three", `device.attributes["example.com"].model == "three"`), claim("broken", "nonsense("), elsewhere, other, going)
	const can, cannot = "fits; ", "cannot allocate all claims; "
	for _, tc := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{pod("p"), "no claims"},
		{pod("p", "any"), "a: " + can + "b: " + can + "c: " + cannot},
		{pod("p", "any", "any2"), "a: " + cannot + "b: " + can + "c: " + cannot},
		{pod("p", "three"), "a: " + cannot + "b: " + can + "c: " + cannot},
		{pod("p", "elsewhere"), "a: resourceclaim not available on the node; b: " + can + "c: resourceclaim not available on the node; "},
		{pod("p", "missing"), `resourceclaim.resource.k8s.io "missing" not found`},
		{pod("p", "other-class"), "request gpu: device class none does not exist"},
		{pod("p", "going"), `resourceclaim "going" is being deleted`},
	} {
		if got := place(c, tc.pod, "a", "b", "c"); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.pod.Spec.ResourceClaims, got, tc.want)
		}
	}
}

// Two pods, one device: the second one waits from the moment of the decision on, and gets it when it is given back.
func TestDevicesAreGivenOnce(t *testing.T) {
	c, changed := newClaims(t, slice("a", "one"), claim("first", ""), claim("second", ""))
	p, q := pod("p", "first"), pod("q", "second")
	pc, _ := c.For(p)
	if why := pc.Fits(node("a")); why != "" {
		t.Fatal(why)
	}
	pc.Reserve("a")
	if got := place(c, q, "a"); got != "a: cannot allocate all claims; " {
		t.Errorf("while it is decided: %s", got)
	}
	if got := place(c, p, "a"); got != "resource claim ns/first is in the process of being allocated" {
		t.Errorf("the same claim: %s", got)
	}
	ctx := context.Background()
	if err := c.Bind(ctx, pc, "a"); err != nil {
		t.Fatal(err)
	}
	got, err := c.client.ResourceV1().ResourceClaims("ns").Get(ctx, "first", metav1.GetOptions{})
	if err != nil || !hasFinalizer(got) || got.Status.Allocation == nil || len(got.Status.ReservedFor) != 1 || got.Status.ReservedFor[0].UID != "p" {
		t.Fatalf("claim: %+v, %v", got, err)
	}
	if r := got.Status.Allocation.Devices.Results; len(r) != 1 || fmt.Sprint(r[0].Driver, r[0].Pool, r[0].Device) != "example.comaone" {
		t.Errorf("allocation: %+v", r)
	}
	until(t, changed, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.pending) == 0 })
	if got := place(c, q, "a"); got != "a: cannot allocate all claims; " {
		t.Errorf("once it is written: %s", got)
	}
	got = got.DeepCopy() // the cache of a fake may share it
	got.Status = resourcev1.ResourceClaimStatus{}
	if _, err := c.client.ResourceV1().ResourceClaims("ns").UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, changed, func() bool { return place(c, q, "a") == "a: fits; " })
}

func TestUnreserve(t *testing.T) {
	c, _ := newClaims(t, slice("a", "one"), claim("first", ""))
	pc, _ := c.For(pod("p", "first"))
	if why := pc.Fits(node("a")); why != "" {
		t.Fatal(why)
	}
	pc.Reserve("a")
	c.Unreserve(context.Background(), pc)
	if got := place(c, pod("q", "first"), "a"); got != "a: fits; " {
		t.Error(got)
	}
}

func TestTainted(t *testing.T) {
	device, pool := "one", "a"
	all := []*resourcev1.ResourceSlice{slice("a", "one", "two"), slice("b", "one")}
	rules := []*resourcev1.DeviceTaintRule{
		{Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: &resourcev1.DeviceTaintSelector{Pool: &pool, Device: &device}, Taint: resourcev1.DeviceTaint{Key: "sick"}}},
	}
	got := Tainted(all, rules)
	if len(got[0].Spec.Devices[0].Taints) != 1 || len(got[0].Spec.Devices[1].Taints) != 0 || got[1] != all[1] || len(all[0].Spec.Devices[0].Taints) != 0 {
		t.Errorf("taints: %+v", got)
	}
}
