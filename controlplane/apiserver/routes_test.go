package apiserver

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/emicklei/go-restful/v3"
)

// The routes must go on working, and the library must still have the fields that the saving relies on.
func TestSlimRoutes(t *testing.T) {
	c := restful.NewContainer()
	c.Router(restful.CurlyRouter{})
	ws := new(restful.WebService).Path("/api")
	answer := func(text string) restful.RouteFunction {
		return func(r *restful.Request, w *restful.Response) { _, _ = w.Write([]byte(text + r.PathParameter("name"))) }
	}
	param := func() *restful.Parameter { return ws.QueryParameter("pretty", "indent").DataType("string") }
	ws.Route(ws.GET("/things/{name}").To(answer("get ")).Param(param()))
	ws.Route(ws.DELETE("/things/{name}").To(answer("delete ")).Param(param()))
	ws.Route(ws.GET("/other").To(answer("other")).Param(ws.QueryParameter("pretty", "something else").DataType("string")))
	c.Add(ws)
	slimRoutes(c.RegisteredWebServices())

	for _, tc := range []struct{ method, path, want string }{
		{http.MethodGet, "/api/things/a", "get a"},
		{http.MethodDelete, "/api/things/b", "delete b"},
		{http.MethodGet, "/api/other", "other"},
	} {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
		if w.Body.String() != tc.want {
			t.Errorf("%s %s: %q, want %q", tc.method, tc.path, w.Body, tc.want)
		}
	}
	routes := reflect.ValueOf(ws).Elem().FieldByName("routes")
	expression := func(i int) uintptr { return routes.Index(i).FieldByName("pathExpr").Pointer() }
	if expression(0) != expression(1) || expression(0) == expression(2) {
		t.Error("routes of one path do not share their expression, or others do: has the library's Route changed?")
	}
	docs := ws.Routes()
	if docs[0].ParameterDocs[0] != docs[1].ParameterDocs[0] || docs[0].ParameterDocs[0] == docs[2].ParameterDocs[0] {
		t.Error("equal parameters are not shared, or different ones are")
	}
}
