package apiservertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"github.com/mote-edge/mote/controlplane/pki"
)

// An aggregated API server is called with the front proxy's certificate and told who asks.
func TestAggregatedServer(t *testing.T) {
	ctx := t.Context()
	const group = "extra.mote.dev"
	var seen atomic.Value
	port := aggregated(t, group, func(r *http.Request) {
		if r.URL.Path == "/apis/"+group+"/v1/things" {
			seen.Store([3]string{r.TLS.PeerCertificates[0].Subject.CommonName, r.Header.Get("X-Remote-User"), r.Header.Get("Authorization")})
		}
	})
	ns := shared.Namespace(t)
	if _, err := shared.Client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "extra"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client, err := aggregator.NewForConfig(shared.Config)
	if err != nil {
		t.Fatal(err)
	}
	services := client.ApiregistrationV1().APIServices()
	if _, err := services.Create(ctx, &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1." + group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: group, Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 10, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: ns, Name: "extra", Port: &port},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = services.Delete(context.Background(), "v1."+group, metav1.DeleteOptions{}) })
	as, err := kubernetes.NewForConfig(shared.As("alice", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err = as.Discovery().RESTClient().Get().AbsPath("/apis/" + group + "/v1/things").DoRaw(ctx)
		if err == nil || time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, want := seen.Load(), ([3]string{"front-proxy-client", "alice", ""}); got != want {
		t.Errorf("the aggregated server saw %q, want %q", got, want)
	}
	eventually(t, func() error {
		l, err := shared.Client.Discovery().ServerResourcesForGroupVersion(group + "/v1")
		if err == nil && len(l.APIResources) != 1 {
			return errors.New("discovery does not list the aggregated resource")
		}
		return err
	})
}

// aggregated serves an API group of one resource and returns its port.
func aggregated(t *testing.T, group string, look func(*http.Request)) int32 {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := shared.PKI.CA.Issue(pki.Subject{Name: "extra", Hosts: []string{"localhost"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(shared.PKI.FrontProxy.Cert)
	srv := &http.Server{
		ReadHeaderTimeout: time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			look(r)
			w.Header().Set("Content-Type", "application/json")
			switch r.URL.Path {
			case "/apis/" + group + "/v1":
				_ = json.NewEncoder(w).Encode(metav1.APIResourceList{
					TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: group + "/v1",
					APIResources: []metav1.APIResource{{Name: "things", Kind: "Thing", Verbs: metav1.Verbs{"list"}}},
				})
			case "/apis/" + group + "/v1/things":
				_, _ = w.Write([]byte(`{"apiVersion":"` + group + `/v1","kind":"ThingList","items":[]}`))
			default:
				http.NotFound(w, r)
			}
		}),
	}
	go func() { _ = srv.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
	_, text, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}
