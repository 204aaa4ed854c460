package endpointslicemirroring

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/mote-edge/mote/controlplane/controllers/workloadtest"
)

func addrs(ips ...string) (out []corev1.EndpointAddress) {
	for _, ip := range ips {
		out = append(out, corev1.EndpointAddress{IP: ip})
	}
	return out
}

func byHand(subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "ext", Namespace: "default", UID: "e"}, Subsets: subsets}
}

var http = []corev1.EndpointPort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}

func show(list []*discoveryv1.EndpointSlice) string {
	var out []string
	for _, s := range list {
		line := string(s.AddressType)
		for _, p := range s.Ports {
			line += fmt.Sprintf(" %d", *p.Port)
		}
		for _, e := range s.Endpoints {
			line += " " + e.Addresses[0]
			if !*e.Conditions.Ready {
				line += "!"
			}
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}

func TestMirror(t *testing.T) {
	for _, c := range []struct {
		name             string
		ep               *corev1.Endpoints
		want             string
		invalid, skipped int
	}{
		{"nothing", byHand(), "", 0, 0},
		{
			"ready and not", byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.2", "10.0.0.1"), NotReadyAddresses: addrs("10.0.0.3")}),
			"IPv4 80 10.0.0.1 10.0.0.2 10.0.0.3!", 0, 0,
		},
		{"both families", byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("fd00::1", "10.0.0.1")}), "IPv4 80 10.0.0.1; IPv6 80 fd00::1", 0, 0},
		{"leading zeros, bad ones", byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("010.0.0.01", "nonsense")}), "IPv4 80 10.0.0.1", 1, 0},
		{"no ports", byHand(corev1.EndpointSubset{Addresses: addrs("10.0.0.1")}), "IPv4 10.0.0.1", 0, 0},
		{
			"equal ports merge", byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.2")}, corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.1")}),
			"IPv4 80 10.0.0.1 10.0.0.2", 0, 0,
		},
		{"ready wins", byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.2"), NotReadyAddresses: addrs("10.0.0.2")}), "IPv4 80 10.0.0.2", 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, invalid, skipped := mirror(c.ep)
			if s := show(got); s != c.want || invalid != c.invalid || skipped != c.skipped {
				t.Errorf("got %q, %d invalid, %d skipped; want %q", s, invalid, skipped, c.want)
			}
		})
	}
	var many []string
	for i := range 1100 {
		many = append(many, fmt.Sprintf("10.0.%d.%d", i/250, i%250))
	}
	if got, _, skipped := mirror(byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs(many...)})); skipped != 100 || len(got[0].Endpoints) != 1000 {
		t.Errorf("%d skipped", skipped)
	}
}

func TestMirrored(t *testing.T) {
	ep := byHand()
	if !mirrored(ep) {
		t.Error("plain Endpoints are mirrored")
	}
	ep.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	if mirrored(ep) {
		t.Error("skip-mirror must be obeyed")
	}
	ep = byHand()
	ep.Annotations = map[string]string{resourcelock.LeaderElectionRecordAnnotationKey: "{}"}
	if mirrored(ep) {
		t.Error("a leader election record is no endpoint")
	}
}

func TestDiff(t *testing.T) {
	one, _, _ := mirror(byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.1")}))
	two, _, _ := mirror(byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("10.0.0.2", "fd00::1")}))
	one[0].Name = "have"
	if d := diff(one, one); len(d.create)+len(d.update)+len(d.remove) != 0 {
		t.Errorf("equal slices: %+v", d)
	}
	d := diff(one, two)
	if show(d.update) != "IPv4 80 10.0.0.2" || d.update[0].Name != "have" || show(d.create) != "IPv6 80 fd00::1" || len(d.remove) != 0 {
		t.Errorf("update %q, create %q, remove %q", show(d.update), show(d.create), show(d.remove))
	}
	if d := diff(two, nil); len(d.remove) != 2 {
		t.Errorf("remove %q", show(d.remove))
	}
}

func TestController(t *testing.T) {
	ep := byHand(corev1.EndpointSubset{Ports: http, Addresses: addrs("192.0.2.7")})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "ext", Namespace: "default"}}
	c := workloadtest.New(t, ep, svc)
	ctl, err := New(c.Client, c.Informers, c.Recorder)
	if err != nil {
		t.Fatal(err)
	}
	c.Start(ctl.Run)
	slices := func() string {
		l, err := c.Client.DiscoveryV1().EndpointSlices("default").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var list []*discoveryv1.EndpointSlice
		for i := range l.Items {
			list = append(list, &l.Items[i])
		}
		return show(list)
	}
	c.Eventually("it is mirrored", func() bool { return slices() == "IPv4 80 192.0.2.7" })
	got, _ := c.Client.CoreV1().Endpoints("default").Get(context.Background(), "ext", metav1.GetOptions{})
	got.Subsets[0].Addresses = addrs("192.0.2.8")
	if _, err := c.Client.CoreV1().Endpoints("default").Update(context.Background(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the change is mirrored", func() bool { return slices() == "IPv4 80 192.0.2.8" })
	if err := c.Client.CoreV1().Services("default").Delete(context.Background(), "ext", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("without a Service there are no slices", func() bool { return slices() == "" })
}
