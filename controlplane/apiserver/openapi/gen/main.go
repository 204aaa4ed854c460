// Command gen writes what the API server knows of its types' schemas, from the definitions that openapi-gen generates.
// See gen.sh.
//
// Reads: package definitions, which gen.sh generates. Writes: ../definitions.txt, ../merge.txt.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/mote-edge/mote/controlplane/apiserver/openapi/gen/definitions"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	all := definitions.GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef("#/definitions/" + path) })
	var text bytes.Buffer
	schemas := map[string]*spec.Schema{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d := all[name]
		schema := d.Schema
		body, err := json.Marshal(schema)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		slices.Sort(d.Dependencies)
		fmt.Fprintf(&text, "%s\t%s\t%s\n", name, strings.Join(d.Dependencies, ","), body)
		schemas[name] = &schema
	}
	if err := os.WriteFile("../definitions.txt", text.Bytes(), 0o644); err != nil {
		return err
	}
	merge, err := schemaconv.ToSchemaFromOpenAPI(schemas, false)
	if err != nil {
		return fmt.Errorf("derive the merge schema: %w", err)
	}
	text.Reset()
	lines := map[string]string{}
	for _, t := range merge.Types {
		w, err := toWire(t.Atom)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		body, err := json.Marshal(w)
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
		lines[t.Name] = string(body)
	}
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&text, "%s\t%s\n", name, lines[name])
	}
	return os.WriteFile("../merge.txt", text.Bytes(), 0o644)
}

// The wire types are those of ../wire.go: short names, and nothing that is empty.
type (
	atom struct {
		Scalar string  `json:"s,omitempty"`
		List   *list   `json:"l,omitempty"`
		Map    *object `json:"m,omitempty"`
	}
	list struct {
		Element      ref      `json:"e"`
		Relationship string   `json:"r,omitempty"`
		Keys         []string `json:"k,omitempty"`
	}
	object struct {
		Fields       []field `json:"f,omitempty"`
		Element      ref     `json:"e,omitzero"`
		Relationship string  `json:"r,omitempty"`
	}
	field struct {
		Name    string `json:"n"`
		Type    ref    `json:"t"`
		Default any    `json:"d,omitempty"`
	}
	ref struct {
		Named        string `json:"n,omitempty"`
		Inlined      *atom  `json:"a,omitempty"`
		Relationship string `json:"r,omitempty"`
	}
)

func toWire(a smd.Atom) (*atom, error) {
	out := &atom{}
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if a.List != nil {
		e, err := toRef(a.List.ElementType)
		if err != nil {
			return nil, err
		}
		out.List = &list{Element: e, Relationship: string(a.List.ElementRelationship), Keys: a.List.Keys}
	}
	if a.Map != nil {
		if len(a.Map.Unions) > 0 {
			return nil, errors.New("it has unions, which the table has no place for")
		}
		e, err := toRef(a.Map.ElementType)
		if err != nil {
			return nil, err
		}
		out.Map = &object{Element: e, Relationship: string(a.Map.ElementRelationship)}
		for _, f := range a.Map.Fields {
			t, err := toRef(f.Type)
			if err != nil {
				return nil, err
			}
			out.Map.Fields = append(out.Map.Fields, field{f.Name, t, f.Default})
		}
		slices.SortFunc(out.Map.Fields, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	}
	return out, nil
}

func toRef(r smd.TypeRef) (ref, error) {
	out := ref{}
	if r.ElementRelationship != nil {
		out.Relationship = string(*r.ElementRelationship)
	}
	if r.NamedType != nil {
		out.Named = *r.NamedType
		return out, nil
	}
	if r.Inlined.Scalar == nil && r.Inlined.List == nil && r.Inlined.Map == nil {
		return out, nil
	}
	var err error
	out.Inlined, err = toWire(r.Inlined)
	return out, err
}
