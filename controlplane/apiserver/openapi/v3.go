package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/mote-edge/mote/internal/version"
)

const (
	jsonType  = "application/json"
	protoType = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
	// protoTypeOld is how the type was once spelt; clients still ask for it.
	protoTypeOld = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
)

// V3 serves /openapi/v3 for the group versions of a container of routes.
type V3 struct {
	services func() []*restful.WebService
	names    func() namer
	docs     cache
	hashes   sync.Map // *restful.WebService → string
}

var _ http.Handler = (*V3)(nil)

// NewV3 describes what the container serves at the time of each request.
func NewV3(services func() []*restful.WebService, s *runtime.Scheme) *V3 {
	return &V3{services: services, names: sync.OnceValue(func() namer { return newNamer(s) })}
}

// ServeHTTP answers /openapi/v3 with the list of group versions, and /openapi/v3/<root path> with one of them.
func (v *V3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	if path == "" {
		v.list(w)
		return
	}
	ws := v.service(path)
	if ws == nil {
		http.NotFound(w, r)
		return
	}
	kind := jsonType
	for a := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		if t, _, _ := strings.Cut(strings.TrimSpace(a), ";"); t == protoType || t == protoTypeOld {
			kind = protoType
			break
		} else if t == jsonType || t == "*/*" || t == "application/*" {
			break
		}
	}
	body, err := v.docs.get(path+" "+kind, false, func() ([]byte, error) { return v.build(path, ws, kind) })
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	etag := v.hash(ws)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Etag", `"`+etag+`"`)
	w.Header().Set("Vary", "Accept")
	if r.URL.Query().Get("hash") == etag {
		// The name of this document contains its hash: whoever has it needn't ask again (RFC 8246).
		w.Header().Set("Cache-Control", "public, immutable")
	}
	if r.Header.Get("If-None-Match") == `"`+etag+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(body)
}

func (v *V3) list(w http.ResponseWriter) {
	paths := map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}
	for _, ws := range v.services() {
		p := strings.TrimPrefix(ws.RootPath(), "/")
		paths[p] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: "/openapi/v3/" + p + "?hash=" + v.hash(ws)}
	}
	body, err := json.Marshal(handler3.OpenAPIV3Discovery{Paths: paths})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", jsonType)
	_, _ = w.Write(body)
}

func (v *V3) service(path string) *restful.WebService {
	for _, ws := range v.services() {
		if strings.Trim(ws.RootPath(), "/") == path {
			return ws
		}
	}
	return nil
}

// hash changes when the document could: with the program and the routes. It is known without building the document.
// The routes are complete when the first request comes.
func (v *V3) hash(ws *restful.WebService) string {
	if known, ok := v.hashes.Load(ws); ok {
		return known.(string) //nolint:forcetypeassert // strings alone are stored
	}
	h := sha256.New()
	fmt.Fprint(h, version.String(), len(definitionsText), ws.RootPath())
	for _, r := range ws.Routes() {
		fmt.Fprint(h, r.Method, r.Path)
	}
	sum := strings.ToUpper(hex.EncodeToString(h.Sum(nil)))
	v.hashes.Store(ws, sum)
	return sum
}

func (v *V3) build(path string, ws *restful.WebService, kind string) ([]byte, error) {
	ref := func(name string) spec.Ref {
		n, _ := v.names().name(name)
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(n))
	}
	defs, err := definitions(ref, models(ws)...)
	if err != nil {
		return nil, err
	}
	doc, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{ws}), &common.OpenAPIV3Config{
		Info:                  info(),
		DefaultResponse:       &spec3.Response{ResponseProps: spec3.ResponseProps{Description: "Default Response."}},
		GetOperationIDAndTags: openapinamer.GetOperationIDAndTags,
		GetDefinitionName:     v.names().name,
		Definitions:           defs,
		GetDefinitions:        func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return defs },
		SecuritySchemes:       spec3.SecuritySchemes{"BearerToken": &spec3.SecurityScheme{SecuritySchemeProps: spec3.SecuritySchemeProps{Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication"}}},
	})
	if err != nil {
		return nil, fmt.Errorf("describe /%s: %w", path, err)
	}
	body, err := json.Marshal(doc)
	if err != nil || kind == jsonType {
		return body, err
	}
	return handler3.ToV3ProtoBinary(body)
}

func info() *spec.Info {
	return &spec.Info{InfoProps: spec.InfoProps{Title: "Kubernetes", Version: version.Kubernetes}}
}

// models are the types that the routes of a service take and return.
func models(ws *restful.WebService) []string {
	var names []string
	add := func(m any) {
		if m != nil {
			names = append(names, util.GetCanonicalTypeName(m))
		}
	}
	for _, r := range ws.Routes() {
		add(r.ReadSample)
		add(r.WriteSample)
		for _, e := range r.ResponseErrors {
			add(e.Model)
		}
	}
	// What the builder itself adds to every operation.
	return append(names, "io.k8s.apimachinery.pkg.apis.meta.v1.Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Patch")
}
