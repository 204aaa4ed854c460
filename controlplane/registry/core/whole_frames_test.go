package core

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// What stands in for TLS that the translator knows of is the same TLS: it ends at an agent that the roots vouch for, and at no other.
func TestWholeFramesOverTLS(t *testing.T) {
	agent := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
			go func() {
				<-replied
				_, _ = io.Copy(s, s)
			}()
			return nil
		})
		if conn != nil {
			<-conn.CloseChan()
		}
	}))
	defer agent.Close()
	location, _ := url.Parse(agent.URL + "/exec/ns/pod/c?command=ls")
	open := func(roots *x509.CertPool) (httpstream.Connection, error) {
		plain, transport := wholeFrames(location, &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DialContext: (&net.Dialer{}).DialContext})
		upgrader, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: transport})
		if err != nil {
			t.Fatal(err)
		}
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, plain.String(), nil)
		answer, err := upgrader.RoundTrip(request)
		if err != nil {
			return nil, err
		}
		return upgrader.NewConnection(answer)
	}
	if _, err := open(x509.NewCertPool()); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("at an agent that nobody vouches for: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(agent.Certificate())
	conn, err := open(roots)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := conn.CreateStream(http.Header{"Streamtype": {"stdin"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stream, "hello"); err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, 5)
	if _, err := io.ReadFull(stream, heard); err != nil || string(heard) != "hello" {
		t.Errorf("heard %q, %v", heard, err)
	}
}
