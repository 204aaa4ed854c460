package nodeipam

import (
	"context"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
)

func TestNextFree(t *testing.T) {
	for _, c := range []struct {
		name, cluster string
		bits          int
		used          []string
		want          string
	}{
		{"the first", "10.42.0.0/16", 24, nil, "10.42.0.0/24"},
		{"after the first", "10.42.0.0/16", 24, []string{"10.42.0.0/24"}, "10.42.1.0/24"},
		{"a gap", "10.42.0.0/16", 24, []string{"10.42.0.0/24", "10.42.2.0/24"}, "10.42.1.0/24"},
		{"a larger one in the way", "10.42.0.0/16", 24, []string{"10.42.0.0/23"}, "10.42.2.0/24"},
		{"a smaller one in the way", "10.42.0.0/16", 24, []string{"10.42.0.128/25"}, "10.42.1.0/24"},
		{"of another cluster", "10.42.0.0/16", 24, []string{"192.168.0.0/16"}, "10.42.0.0/24"},
		{"none left", "10.42.0.0/23", 24, []string{"10.42.0.0/24", "10.42.1.0/24"}, ""},
		{"the whole", "10.42.0.0/24", 24, nil, "10.42.0.0/24"},
		{"the last addresses", "255.255.255.0/24", 25, []string{"255.255.255.0/25", "255.255.255.128/25"}, ""},
		{"v6", "fd00::/56", 64, []string{"fd00::/64"}, "fd00:0:0:1::/64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			used := map[netip.Prefix]bool{}
			for _, u := range c.used {
				used[netip.MustParsePrefix(u)] = true
			}
			got, ok := nextFree(netip.MustParsePrefix(c.cluster), c.bits, used)
			if ok != (c.want != "") || (ok && got.String() != c.want) {
				t.Errorf("got %v %v, want %q", got, ok, c.want)
			}
		})
	}
}

func TestEachNodeGetsARangeOfItsOwn(t *testing.T) {
	node := func(name, cidr string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if cidr != "" {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
		}
		return n
	}
	client := fake.NewClientset(node("a", ""), node("b", "10.42.1.0/24"), node("c", ""), node("d", ""))
	f := informers.NewSharedInformerFactory(client, 0)
	c, err := New(Config{Client: client, Informers: f, Recorder: record.NewFakeRecorder(10), Cluster: netip.MustParsePrefix("10.42.0.0/16"), MaskSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.Start(ctx.Done())
	go func() { _ = c.Run(ctx) }()
	seen := map[string]string{}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && len(seen) < 4; time.Sleep(5 * time.Millisecond) {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range list.Items {
			if n.Spec.PodCIDR != "" {
				seen[n.Spec.PodCIDR] = n.Name
			}
		}
	}
	if len(seen) != 4 || seen["10.42.1.0/24"] != "b" {
		t.Errorf("ranges: %v", seen)
	}
}
