package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	protoV2    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	protoV2Old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
)

// V2 serves /openapi/v2: the built-in types merged with the documents of other servers of the chain.
type V2 struct {
	services func() []*restful.WebService
	names    func() namer
	// others serve their own /openapi/v2, with an ETag.
	others []http.Handler
	docs   cache
}

var _ http.Handler = (*V2)(nil)

// NewV2 describes what the container and the others serve at the time of each request.
func NewV2(services func() []*restful.WebService, s *runtime.Scheme, others ...http.Handler) *V2 {
	return &V2{services: services, names: sync.OnceValue(func() namer { return newNamer(s) }), others: others}
}

func (v *V2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := jsonType
	if a := r.Header.Get("Accept"); strings.Contains(a, protoV2) || strings.Contains(a, protoV2Old) {
		kind = protoV2
	}
	var bodies [][]byte
	key := kind
	for _, o := range v.others {
		body, etag := fetch(o, r)
		bodies = append(bodies, body)
		key += " " + etag
	}
	body, err := v.docs.get(key, true, func() ([]byte, error) { return v.build(bodies, kind) })
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	etag := fmt.Sprintf("%q", strings.ReplaceAll(strings.ReplaceAll(key, `"`, ""), " ", "-"))
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Etag", etag)
	w.Header().Set("Vary", "Accept")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(body)
}

// fetch asks another server of the chain. One that has nothing to say is left out.
func fetch(h http.Handler, r *http.Request) (body []byte, etag string) {
	req := r.Clone(r.Context())
	req.Method = http.MethodGet
	req.Header = http.Header{"Accept": {jsonType}}
	rec := &recorder{header: http.Header{}, code: http.StatusOK}
	h.ServeHTTP(rec, req)
	if rec.code != http.StatusOK {
		return nil, ""
	}
	return rec.Bytes(), rec.header.Get("Etag")
}

// recorder is an http.ResponseWriter that keeps what is written.
type recorder struct {
	bytes.Buffer
	header http.Header
	code   int
}

func (r *recorder) Header() http.Header  { return r.header }
func (r *recorder) WriteHeader(code int) { r.code = code }

func (v *V2) build(others [][]byte, kind string) ([]byte, error) {
	var failed error
	doc, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(v.services()), &common.Config{
		ProtocolList:          []string{"https"},
		Info:                  info(),
		DefaultResponse:       &spec.Response{ResponseProps: spec.ResponseProps{Description: "Default Response."}},
		GetOperationIDAndTags: openapinamer.GetOperationIDAndTags,
		GetDefinitionName:     v.names().name,
		GetDefinitions: func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
			defs, err := definitions(ref)
			failed = err
			return defs
		},
		SecurityDefinitions: &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
		DefaultSecurity:     []map[string][]string{{"BearerToken": {}}},
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("describe the built-in resources: %w", err)
	}
	doc.Definitions = handler.PruneDefaults(doc.Definitions)
	for _, b := range others {
		if len(b) == 0 {
			continue
		}
		var o spec.Swagger
		if err := o.UnmarshalJSON(b); err != nil {
			return nil, fmt.Errorf("read another server's description: %w", err)
		}
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(doc, &o); err != nil {
			return nil, fmt.Errorf("merge another server's description: %w", err)
		}
	}
	body, err := json.Marshal(doc)
	if err != nil || kind == jsonType {
		return body, err
	}
	return handler.ToProtoBinary(body)
}
