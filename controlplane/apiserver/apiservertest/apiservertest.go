// Package apiservertest starts a real API server inside a test: embedded etcd on a temporary directory, every built-in
// resource, authentication, authorization and admission, in a few hundred milliseconds.
//
//	s := apiservertest.Start(t)                      // ends with the test
//	s.Client                                         // kubernetes.Interface, a cluster administrator, in process
//	s.Config                                         // *rest.Config of the same: for dynamic, metadata, typed clients
//	s.Informers                                      // a shared factory (controlplane/informer); call Start yourself
//	s.As("system:node:a", "system:nodes")            // *rest.Config of another user, by impersonation
//	s.Kubeconfig                                     // path of an administrator's kubeconfig file, over TLS
//	s.URL, s.CA                                      // for clients of one's own
//	s.Namespace(t)                                   // a fresh namespace with a default service account
//	s.PKI                                            // certificates: *pki.Store
//
// With apiservertest.Options one can keep the directory (restart tests) or change the API server's configuration.
// No controller and no scheduler runs: tests bring those that they test. Starting several servers at the same time in
// one process is fine; starting one per package (TestMain or sync.Once) saves time.
//
// Reads:  nothing. Writes: a temporary directory.
package apiservertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/etcd"
	"github.com/mote-edge/mote/controlplane/informer"
	"github.com/mote-edge/mote/controlplane/pki"
)

// Options changes what Start does.
type Options struct {
	// Dir holds the state; default a temporary one. A second start on the same directory continues it.
	Dir string
	// Configure may change the API server's configuration.
	Configure func(*apiserver.Config)
	// Sync makes etcd wait for the disk, which tests seldom need.
	Sync bool
}

// Server is a running API server.
type Server struct {
	Client     kubernetes.Interface
	Config     *rest.Config
	Informers  informers.SharedInformerFactory
	Kubeconfig string
	URL        string
	CA         []byte
	PKI        *pki.Store
	API        *apiserver.Server
	Etcd       *etcd.Store

	stop func() error
}

// Start runs a server for as long as the test.
func Start(t testing.TB, options ...Options) *Server {
	t.Helper()
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := Run(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// quiet keeps the libraries' talk out of the tests' output.
var quiet = sync.OnceFunc(func() {
	klog.SetSlogLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1})))
})

// Run starts a server without a test, for TestMain. The caller calls Stop.
func Run(ctx context.Context, o Options) (_ *Server, err error) {
	quiet()
	s := &Server{}
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(o.Dir, "etcd"), UnsafeNoSync: !o.Sync})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	s.Etcd = store
	if s.PKI, err = pki.Open(filepath.Join(o.Dir, "tls")); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	cfg := apiserver.Config{PKI: s.PKI, Etcd: store, Listener: listener, AdvertiseAddress: net.IPv4(192, 0, 2, 1)}
	if o.Configure != nil {
		o.Configure(&cfg)
	}
	if s.API, err = apiserver.New(cfg); err != nil {
		return nil, err
	}
	s.Client, s.Config, s.CA = s.API.Client(), s.API.Loopback(), s.PKI.CA.CertPEM
	s.Informers = informer.NewFactory(s.Client)
	s.URL = "https://" + s.API.Address()
	s.Kubeconfig = filepath.Join(o.Dir, "kubeconfig")
	if err := pki.WriteKubeconfig(s.Kubeconfig, s.URL, s.PKI.CA, pki.AdminSubject()); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	runCtx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.API.Run(runCtx) }()
	s.stop = func() error {
		cancel()
		s.Informers.Shutdown()
		return errors.Join(<-done, store.Close())
	}
	select {
	case <-s.API.Ready():
		return s, nil
	case err := <-done:
		cancel()
		return nil, fmt.Errorf("the API server ended: %w", err)
	case <-time.After(30 * time.Second):
		return nil, errors.Join(errors.New("the API server did not become ready within 30 seconds"), s.stop())
	}
}

// Stop ends the server. The directory stays; a temporary one goes with the test.
func (s *Server) Stop() error {
	if s.stop == nil {
		return nil
	}
	err := s.stop()
	s.stop = nil
	return err
}

// As returns the configuration of another user.
func (s *Server) As(user string, groups ...string) *rest.Config {
	c := rest.CopyConfig(s.Config)
	c.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return c
}

// ClientAs returns a typed client of another user.
func (s *Server) ClientAs(t testing.TB, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.As(user, groups...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Namespace makes a namespace of its own for a test, with the service account that pods need. It is deleted with the
// test, as far as it can be without a namespace controller.
func (s *Server) Namespace(t testing.TB) string {
	t.Helper()
	ctx := context.Background()
	ns, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Log(err)
		}
	})
	_, err = s.Client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return ns.Name
}
