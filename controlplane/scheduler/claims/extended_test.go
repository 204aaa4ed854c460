package claims

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

const gpu = corev1.ResourceName("example.com/gpu")

// asks is a pod with containers "name count"; a name that begins with i is an init container, with s a sidecar.
func asks(containers ...string) *corev1.Pod {
	p := pod("p")
	for _, text := range containers {
		name, count, _ := strings.Cut(text, " ")
		c := corev1.Container{Name: name}
		if count != "0" {
			c.Resources.Requests = corev1.ResourceList{gpu: resource.MustParse(count), corev1.ResourceCPU: resource.MustParse("1")}
		}
		switch name[0] {
		case 's':
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
			fallthrough
		case 'i':
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

func TestRequestsOfExtendedResources(t *testing.T) {
	for _, c := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{asks("a 2"), "container-0-request-1=2; a:container-0-request-1"},
		{asks("a 2", "b 1"), "container-0-request-1=2 container-1-request-1=1; a:container-0-request-1 b:container-1-request-1"},
		{asks("i 1", "a 2"), "container-1-request-1=2; a:container-1-request-1 i:container-1-request-1"},
		{asks("i 3", "i2 4", "a 2"), "container-1-request-1=2 container-2-request-1=2; a:container-2-request-1 i:container-2-request-1 i2:container-2-request-1 i:container-1-request-1 i2:container-1-request-1"},
		{asks("s 1", "i 1", "a 1"), "container-0-request-1=1 container-2-request-1=1; s:container-0-request-1 a:container-2-request-1 i:container-2-request-1"},
		{asks("a 0"), "; "},
	} {
		requests, mappings := requestsFor(c.pod, map[corev1.ResourceName]string{gpu: "class"})
		var left, right []string
		for _, r := range requests {
			left = append(left, fmt.Sprintf("%s=%d", r.Name, r.Exactly.Count))
		}
		for _, m := range mappings {
			right = append(right, m.ContainerName+":"+m.RequestName)
		}
		if got := strings.Join(left, " ") + "; " + strings.Join(right, " "); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestClassOfAResource(t *testing.T) {
	class := func(name, resource string, age int64) *resourcev1.DeviceClass {
		c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000-age, 0)}}
		if resource != "" {
			c.Spec.ExtendedResourceName = &resource
		}
		return c
	}
	all := []*resourcev1.DeviceClass{class("old", string(gpu), 9), class("b", string(gpu), 1), class("a", string(gpu), 1), class("plain", "", 5)}
	plain := corev1.ResourceName("deviceclass.resource.kubernetes.io/plain")
	got := choose(all, sets.New(gpu, plain, "example.com/none"))
	if len(got) != 2 || got[gpu] != "a" || got[plain] != "plain" {
		t.Errorf("%v", got)
	}
	for name, want := range map[corev1.ResourceName]bool{gpu: true, plain: true, "cpu": false, "hugepages-2Mi": false, "requests.example.com/gpu": false, "kubernetes.io/x": false} {
		if mayBeBacked(name) != want {
			t.Errorf("%s: %t", name, !want)
		}
	}
}

// A pod gets its devices by a claim of its own where no plugin has the resource, and none where one has.
func TestExtendedResourceByClaim(t *testing.T) {
	backed := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpus"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: new(string(gpu))}}
	p := asks("a 1")
	c, changed := newClaims(t, slice("a", "one"), backed, p)
	plugged := node("b")
	plugged.Status.Allocatable = corev1.ResourceList{gpu: resource.MustParse("1")}
	pc, why := c.For(p)
	if why != "" || pc == nil || !pc.Backs(gpu) || pc.Backs("example.com/none") {
		t.Fatalf("%v %q", pc, why)
	}
	for n, want := range map[*corev1.Node]string{node("a"): "", plugged: "", node("c"): "cannot allocate all claims"} {
		if why := pc.Fits(n); why != want {
			t.Errorf("%s: %q, want %q", n.Name, why, want)
		}
	}
	pc.Reserve("a")
	if got := place(c, asks("a 1"), "a"); got != "a: cannot allocate all claims; " {
		t.Errorf("while it is decided: %s", got)
	}
	ctx := context.Background()
	if err := c.Bind(ctx, pc, "a"); err != nil {
		t.Fatal(err)
	}
	list, err := c.client.ResourceV1().ResourceClaims("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	claim := &list.Items[0]
	if claim.Status.Allocation == nil || claim.Annotations["resource.kubernetes.io/extended-resource-claim"] != "true" || !metav1.IsControlledBy(claim, p) ||
		!hasFinalizer(claim) || len(claim.Status.ReservedFor) != 1 {
		t.Errorf("%+v", claim)
	}
	got, err := c.client.CoreV1().Pods("ns").Get(ctx, "p", metav1.GetOptions{})
	if s := got.Status.ExtendedResourceClaimStatus; err != nil || s == nil || s.ResourceClaimName != claim.Name || len(s.RequestMappings) != 1 || s.RequestMappings[0].ContainerName != "a" {
		t.Errorf("%+v, %v", s, err)
	}
	// The binding fails after all: the claim goes. So does one that is found in a later try.
	until(t, changed, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.leftover(p) != nil })
	if got := place(c, p, "a"); got != "a: cannot schedule extended resource claim; " {
		t.Errorf("left over: %s", got)
	}
	c.Unreserve(ctx, pc)
	until(t, changed, func() bool { return place(c, p, "a") == "a: fits; " })
}
