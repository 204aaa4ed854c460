package registry_test

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/etcd"
	"github.com/mote-edge/mote/controlplane/pki"
)

// server is one API server for all tests of this package: they keep apart by namespace.
var server = sync.OnceValues(func() (*apiserver.Server, error) {
	dir, err := filepath.Abs(testDir)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), UnsafeNoSync: true})
	if err != nil {
		return nil, err
	}
	keys, err := pki.Open(filepath.Join(dir, "tls"))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s, err := apiserver.New(apiserver.Config{PKI: keys, Etcd: store, Listener: l, AdvertiseAddress: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.Run(ctx) }()
	select {
	case <-s.Ready():
		return s, nil
	case err := <-failed:
		return nil, err
	case <-time.After(30 * time.Second):
		return nil, context.DeadlineExceeded
	}
})

// namespace gives a test a client and a namespace of its own.
func namespace(t *testing.T) (kubernetes.Interface, string) {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := s.Client().CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Client(), ns.Name
}
