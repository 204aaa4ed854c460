package openapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/kube-openapi/pkg/handler3"
)

// documents serves an index of names, and each name's document.
func documents(who string, names ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != v3Root {
			w.Header().Set("Content-Type", "text/plain")
			_, _ = w.Write([]byte(who))
			return
		}
		d := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
		for _, n := range names {
			d.Paths[n] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: v3Root + "/" + n + "?hash=" + who}
		}
		_ = json.NewEncoder(w).Encode(d)
	})
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil))
	return w
}

func TestFront(t *testing.T) {
	f := NewFront(documents("remote", "apis/metrics/v1", "apis/apiregistration.k8s.io/v1"),
		documents("core", "api/v1", "apis/apps/v1"), http.NotFoundHandler(), documents("extensions", "apis/stable/v1"))
	f.serve = func(local http.Handler) http.Handler { return local } // the real one's metrics want a request of the server
	w := get(f, "/openapi/v3")
	var d handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	var names []string
	for n := range d.Paths {
		names = append(names, n)
	}
	slices.Sort(names)
	if want := []string{"api/v1", "apis/apiregistration.k8s.io/v1", "apis/apps/v1", "apis/metrics/v1", "apis/stable/v1"}; !slices.Equal(names, want) {
		t.Errorf("documents %v, want %v", names, want)
	}
	for path, want := range map[string]string{
		"/openapi/v3/api/v1": "core", "/openapi/v3/apis/stable/v1": "extensions", "/openapi/v3/apis/metrics/v1": "remote",
		"/openapi/v3/apis/none/v1": "remote", "/api/v1": "remote", // whose business what nobody has is
	} {
		if got := get(f, path).Body.String(); got != want {
			t.Errorf("%s is answered by %q, want %q", path, got, want)
		}
	}
}

func TestFrontTellsOfFailure(t *testing.T) {
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	if w := get(NewFront(documents("remote"), broken), "/openapi/v3"); w.Code != http.StatusInternalServerError {
		t.Errorf("%d: half an index is taken for the whole", w.Code)
	}
}

// The aggregator looks at UnprotectedHandler and NextDelegate alone.
func TestHide(t *testing.T) {
	next := genericapiserver.NewEmptyDelegateWithCustomHandler(http.NotFoundHandler())
	h := Hide(next)
	if h.UnprotectedHandler() == nil {
		t.Error("hidden too early: the chain would get no requests")
	}
	h.Now()
	if h.UnprotectedHandler() != nil || h.NextDelegate() != nil {
		t.Error("still seen")
	}
	if got, want := len(h.ListedPaths()), len(next.ListedPaths()); got != want {
		t.Errorf("%d paths, want the chain's %d", got, want)
	}
}
