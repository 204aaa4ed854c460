package core

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"k8s.io/streaming/pkg/httpstream"

	"github.com/mote-edge/mote/internal/testspdy"
)

// What stands in for TLS that the translator knows of is the same TLS: it ends at an agent that the roots vouch for, and at no other.
func TestWholeFramesOverTLS(t *testing.T) {
	agent := httptest.NewTLSServer(http.HandlerFunc(testspdy.Echo))
	t.Cleanup(agent.Close) // after the stream's connection
	location, _ := url.Parse(agent.URL + "/exec/ns/pod/c?command=ls")
	open := func(roots *x509.CertPool) (httpstream.Stream, error) {
		plain, transport := wholeFrames(location, &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, DialContext: (&net.Dialer{}).DialContext})
		return testspdy.Open(t, transport, plain.String())
	}
	if _, err := open(x509.NewCertPool()); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("at an agent that nobody vouches for: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(agent.Certificate())
	stream, err := open(roots)
	if err != nil {
		t.Fatal(err)
	}
	testspdy.Say(t, stream, "hello")
}
