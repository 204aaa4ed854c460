package openapi

import (
	smd "sigs.k8s.io/structured-merge-diff/v6/schema"
)

// The wire types are how merge.txt writes merge rules: the library's types with short names.
type (
	wireAtom struct {
		Scalar string      `json:"s"`
		List   *wireList   `json:"l"`
		Map    *wireObject `json:"m"`
	}
	wireList struct {
		Element      wireRef  `json:"e"`
		Relationship string   `json:"r"`
		Keys         []string `json:"k"`
	}
	wireObject struct {
		Fields       []wireField `json:"f"`
		Element      wireRef     `json:"e"`
		Relationship string      `json:"r"`
	}
	wireField struct {
		Name    string  `json:"n"`
		Type    wireRef `json:"t"`
		Default any     `json:"d"`
	}
	wireRef struct {
		Named        string    `json:"n"`
		Inlined      *wireAtom `json:"a"`
		Relationship string    `json:"r"`
	}
)

func (w *wireAtom) atom() smd.Atom {
	var a smd.Atom
	if w == nil {
		return a
	}
	if w.Scalar != "" {
		s := smd.Scalar(w.Scalar)
		a.Scalar = &s
	}
	if w.List != nil {
		a.List = &smd.List{ElementType: w.List.Element.ref(), ElementRelationship: smd.ElementRelationship(w.List.Relationship), Keys: w.List.Keys}
	}
	if w.Map != nil {
		a.Map = &smd.Map{ElementType: w.Map.Element.ref(), ElementRelationship: smd.ElementRelationship(w.Map.Relationship)}
		for _, f := range w.Map.Fields {
			a.Map.Fields = append(a.Map.Fields, smd.StructField{Name: f.Name, Type: f.Type.ref(), Default: whole(f.Default)})
		}
	}
	return a
}

func (w *wireRef) ref() smd.TypeRef {
	r := smd.TypeRef{Inlined: w.Inlined.atom()}
	if w.Named != "" {
		r.NamedType = &w.Named
	}
	if w.Relationship != "" {
		e := smd.ElementRelationship(w.Relationship)
		r.ElementRelationship = &e
	}
	return r
}

// whole turns the numbers of defaults into integers where they are: the merge library tells 1 from 1.0.
func whole(v any) any {
	if f, ok := v.(float64); ok && f == float64(int64(f)) {
		return int64(f)
	}
	return v
}
