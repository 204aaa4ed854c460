package proxy

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mote-edge/mote/internal/iptables"
	"github.com/mote-edge/mote/internal/testns"
	"github.com/mote-edge/mote/proxy/snapshot"
)

// fill stores n services of two endpoints each.
func fill(store *snapshot.Store, n int) {
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		store.SetService(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.43.%d.%d", i%250+1, i/250+1), Ports: []corev1.ServicePort{{Name: "web", Port: 80}}},
		})
		fillSlice(store, i, 1)
	}
}

func fillSlice(store *snapshot.Store, i, from int) {
	name := fmt.Sprintf("s%d", i)
	store.SetSlice(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		Ports:      []discoveryv1.EndpointPort{{Name: new("web"), Port: new(int32(80))}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.42.%d.%d", i%250, from)}}, {Addresses: []string{fmt.Sprintf("10.42.%d.%d", i%250, from+1)}}},
	})
}

// BenchmarkSync1000Services measures the first sync of a node, and then that of one changed endpoint.
func BenchmarkSync1000Services(b *testing.B) {
	run, err := iptables.Find()
	if err != nil {
		b.Skip(err)
	}
	ns := testns.New(b)
	store := snapshot.NewStore("here")
	fill(store, 1000)
	s := newSyncer(testConfig, "here", store, run)
	sync := func(dirty ...snapshot.Name) {
		set := map[snapshot.Name]struct{}{}
		for _, n := range dirty {
			set[n] = struct{}{}
		}
		ns.Do(func() { err = s.sync(context.Background(), set) })
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			s = newSyncer(testConfig, "here", store, run)
			sync()
		}
	})
	b.Run("one change", func(b *testing.B) {
		i := 0
		for b.Loop() {
			i++
			fillSlice(store, 7, i%200+1)
			sync(snapshot.Name{Namespace: "ns", Name: "s7"})
		}
	})
}
