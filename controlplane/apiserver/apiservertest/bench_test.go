package apiservertest

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// BenchmarkStart is empty disk to ready, synced writes included.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s := Start(b, Options{Dir: b.TempDir(), Sync: true})
		b.StopTimer()
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkCreate(b *testing.B) {
	cfg, err := clientcmd.BuildConfigFromFlags("", shared.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	cfg.QPS = -1
	external, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		b.Fatal(err)
	}
	for name, client := range map[string]kubernetes.Interface{"TLS": external, "in-process": shared.Client} {
		b.Run(name, func(b *testing.B) {
			ns := shared.Namespace(b)
			n := 0
			for b.Loop() {
				n++
				if _, err := client.CoreV1().ConfigMaps(ns).Create(b.Context(), configMap(fmt.Sprintf("b%d", n), ""), metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
