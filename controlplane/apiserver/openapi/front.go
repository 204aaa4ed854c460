package openapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/endpoints/metrics"
	"k8s.io/apiserver/pkg/util/responsewriter"
	"k8s.io/kube-openapi/pkg/handler3"
)

const v3Root = "/openapi/v3"

// Front answers /openapi/v3 for a whole chain of servers: it asks those of this process when somebody asks it. The aggregator
// asks each of them every second, for as long as the server runs, lest it miss a new custom resource; it needn't know of them
// (see Hide), and remains in charge of aggregated servers and its own types.
type Front struct {
	next   http.Handler
	locals []http.Handler
	serve  func(local http.Handler) http.Handler
}

var _ http.Handler = (*Front)(nil)

// NewFront puts the documents of local servers before those of the aggregator, which is behind next. Everything else goes there.
func NewFront(next http.Handler, locals ...http.Handler) *Front {
	return &Front{next: next, locals: locals, serve: func(local http.Handler) http.Handler {
		return metrics.InstrumentHandlerFunc(http.MethodGet, "", "", "", "openapi/v3/", "", "", false, "", local.ServeHTTP)
	}}
}

func (f *Front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == v3Root:
		f.root(w, r)
	case strings.HasPrefix(r.URL.Path, v3Root+"/"):
		f.document(w, r)
	default:
		f.next.ServeHTTP(w, r)
	}
}

func (f *Front) root(w http.ResponseWriter, r *http.Request) {
	merged := map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}
	for _, h := range append([]http.Handler{f.next}, f.locals...) {
		paths, err := discover(r.Context(), h)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		maps.Copy(merged, paths)
	}
	body, err := json.Marshal(handler3.OpenAPIV3Discovery{Paths: merged})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", jsonType)
	http.ServeContent(w, r, v3Root, time.Now(), bytes.NewReader(body))
}

func (f *Front) document(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, v3Root+"/")
	for _, h := range f.locals {
		if paths, err := discover(r.Context(), h); err == nil {
			if _, ok := paths[name]; ok {
				f.serve(h).ServeHTTP(w, r)
				return
			}
		}
	}
	f.next.ServeHTTP(w, r)
}

// discover asks one server which documents it has.
func discover(ctx context.Context, h http.Handler) (map[string]handler3.OpenAPIV3DiscoveryGroupVersion, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, v3Root, nil)
	if err != nil {
		return nil, err
	}
	w := responsewriter.NewInMemoryResponseWriter()
	h.ServeHTTP(w, r)
	switch w.RespCode() {
	case http.StatusOK:
	case http.StatusNotFound: // none
		return nil, nil
	default:
		return nil, fmt.Errorf("list of OpenAPI documents: status %d", w.RespCode())
	}
	var d handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(w.Data(), &d); err != nil {
		return nil, fmt.Errorf("list of OpenAPI documents: %w", err)
	}
	return d.Paths, nil
}
