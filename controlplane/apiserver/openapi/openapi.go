// Package openapi tells clients the schemas of the built-in types, and tells server-side apply how to merge them. Both
// come from tables in the program's file (definitions.txt, merge.txt; gen makes them): a type's line is decoded when it
// is first needed, and a document is built when it is asked for and dropped when nobody has asked for a while. Built at
// start, they would take a third of the server's heap.
//
// Reads: the tables; the routes of the server that it describes.
// Writes: nothing.
package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"sync"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

//go:embed definitions.txt
var definitionsText string

//go:embed merge.txt
var mergeText string

// table finds lines of a sorted text by their first field. It keeps offsets alone: the text stays in the file.
type table struct {
	text   string
	starts []int32
}

var (
	definitionsTable = sync.OnceValue(func() *table { return newTable(definitionsText) })
	mergeTable       = sync.OnceValue(func() *table { return newTable(mergeText) })
)

func newTable(text string) *table {
	t := &table{text: text}
	for at := 0; at < len(text); {
		t.starts = append(t.starts, int32(at)) //nolint:gosec // a table is a few megabytes
		n := strings.IndexByte(text[at:], '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	return t
}

func (t *table) line(i int) (name, rest string) {
	line, _, _ := strings.Cut(t.text[t.starts[i]:], "\n")
	name, rest, _ = strings.Cut(line, "\t")
	return name, rest
}

func (t *table) find(name string) (rest string, ok bool) {
	i := sort.Search(len(t.starts), func(i int) bool {
		n, _ := t.line(i)
		return n >= name
	})
	if i == len(t.starts) {
		return "", false
	}
	n, rest := t.line(i)
	return rest, n == name
}

// refPrefix is how the table writes references.
const refPrefix = "#/definitions/"

// definition decodes one type. ref writes references in the document's own way.
func definition(name string, ref common.ReferenceCallback) (common.OpenAPIDefinition, bool, error) {
	rest, ok := definitionsTable().find(name)
	if !ok {
		return common.OpenAPIDefinition{}, false, nil
	}
	deps, body, _ := strings.Cut(rest, "\t")
	d := common.OpenAPIDefinition{}
	if deps != "" {
		d.Dependencies = strings.Split(deps, ",")
		// Names hold no characters that JSON or JSON pointers escape, so that references can be replaced as text.
		if to := ref(d.Dependencies[0]); !strings.HasPrefix(to.String(), refPrefix) {
			prefix := strings.TrimSuffix(to.String(), d.Dependencies[0])
			body = strings.ReplaceAll(body, `"`+refPrefix, `"`+prefix)
		}
	}
	if err := d.Schema.UnmarshalJSON([]byte(body)); err != nil {
		return d, false, fmt.Errorf("schema of %s: %w", name, err)
	}
	if v2, ok := d.Schema.Extensions[common.ExtensionV2Schema]; ok {
		s, err := v2Schema(v2)
		if err != nil {
			return d, false, fmt.Errorf("schema of %s for OpenAPI v2: %w", name, err)
		}
		d.Schema.Extensions[common.ExtensionV2Schema] = s
	}
	return d, true, nil
}

// definitions decodes the named types and all that they refer to; without names, all there are.
func definitions(ref common.ReferenceCallback, names ...string) (map[string]common.OpenAPIDefinition, error) {
	t := definitionsTable()
	if len(names) == 0 {
		for i := range t.starts {
			n, _ := t.line(i)
			names = append(names, n)
		}
	}
	out := map[string]common.OpenAPIDefinition{}
	for len(names) > 0 {
		name := names[len(names)-1]
		names = names[:len(names)-1]
		if _, ok := out[name]; ok {
			continue
		}
		d, ok, err := definition(name, ref)
		if err != nil {
			return nil, err
		}
		if ok {
			out[name] = d
			names = append(names, d.Dependencies...)
		}
	}
	return out, nil
}

func v2Schema(v any) (spec.Schema, error) {
	var s spec.Schema
	body, err := json.Marshal(v)
	if err != nil {
		return s, err
	}
	return s, s.UnmarshalJSON(body)
}
