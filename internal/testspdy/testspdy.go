// Package testspdy is a peer for tests of what carries SPDY/3.1: a server that says again what it hears, and a client's stream to it.
package testspdy

import (
	"io"
	"net/http"
	"testing"

	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// Echo upgrades the connection and sends back what comes on each stream, until the connection ends.
func Echo(w http.ResponseWriter, r *http.Request) {
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, replied <-chan struct{}) error {
		go func() {
			<-replied
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}()
		return nil
	})
	if conn != nil {
		<-conn.CloseChan()
	}
}

// Open returns a stream to the server at url that is reached by transport, or why there is none. The connection ends with the test.
func Open(t *testing.T, transport http.RoundTripper, url string) (httpstream.Stream, error) {
	t.Helper()
	upgrader, err := spdy.NewRoundTripperWithConfig(spdy.RoundTripperConfig{UpgradeTransport: transport})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := upgrader.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	conn, err := upgrader.NewConnection(answer)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.CreateStream(http.Header{"Streamtype": {"stdin"}})
}

// Say writes text to an Echo's stream, and fails the test if anything else comes back.
func Say(t *testing.T, stream io.ReadWriter, text string) {
	t.Helper()
	if _, err := io.WriteString(stream, text); err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, len(text))
	if _, err := io.ReadFull(stream, heard); err != nil || string(heard) != text {
		t.Fatalf("%d bytes came back otherwise: %v", len(text), err)
	}
}
