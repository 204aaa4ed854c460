package apiserver

import (
	"reflect"
	"unsafe"

	"github.com/emicklei/go-restful/v3"
)

// slimRoutes lets routes share what they have in common: the router compiles a regular expression for every route,
// though eight of them have the same path, and describes the same query parameters on each. That is a quarter of an idle
// server's heap. It must run before the container serves.
func slimRoutes(services []*restful.WebService) {
	expressions := map[string]unsafe.Pointer{}
	parameters := map[string]*restful.Parameter{}
	for _, ws := range services {
		for _, r := range ws.Routes() {
			// The copies that Routes returns share the parameters' array with the routes themselves.
			for i, p := range r.ParameterDocs {
				d := p.Data()
				if len(d.AllowableValues) > 0 || len(d.PossibleValues) > 0 || len(d.Extensions) > 0 {
					continue
				}
				key := string(rune(d.Kind)) + d.Name + "\x00" + d.DataType + "\x00" + d.DataFormat + "\x00" + d.DefaultValue + "\x00" + d.Description
				if d.Required {
					key += "\x00required"
				}
				if d.AllowMultiple {
					key += "\x00multiple"
				}
				if same, ok := parameters[key]; ok {
					r.ParameterDocs[i] = same
				} else {
					parameters[key] = p
				}
			}
		}
		shareExpressions(ws, expressions)
	}
}

// shareExpressions reaches into the library's Route, which has no way to give a compiled path. With another version of
// the library, whose fields have other names, it does nothing.
func shareExpressions(ws *restful.WebService, seen map[string]unsafe.Pointer) {
	routes := reflect.ValueOf(ws).Elem().FieldByName("routes")
	if !routes.IsValid() || routes.Kind() != reflect.Slice {
		return
	}
	for i := range routes.Len() {
		expression := routes.Index(i).FieldByName("pathExpr")
		if !expression.IsValid() || expression.Kind() != reflect.Pointer || expression.IsNil() {
			return
		}
		source := expression.Elem().FieldByName("Source")
		if !source.IsValid() || source.Kind() != reflect.String {
			return
		}
		if same, ok := seen[source.String()]; ok {
			*(*unsafe.Pointer)(expression.Addr().UnsafePointer()) = same
		} else {
			seen[source.String()] = expression.UnsafePointer()
		}
	}
}
