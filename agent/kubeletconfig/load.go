package kubeletconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

const (
	apiVersion = "kubelet.config.k8s.io/v1beta1"
	kind       = "KubeletConfiguration"
)

// Loaded is a configuration and what it came with.
type Loaded struct {
	Configuration
	Given map[string]bool // the fields that the files name
	Notes []string        // accepted fields that change nothing here, one line each
}

// Load reads a configuration file and the *.conf files of a drop-in directory in the order of their names; either may be
// empty. A drop-in is a merge patch (RFC 7396) over what came before: maps are merged, lists replaced. The error has a
// line for everything that is wrong.
func Load(file, dir string) (*Loaded, error) {
	merged := map[string]any{}
	origin := map[string]string{}
	var files []string
	if file != "" {
		files = append(files, file)
	}
	if dir != "" {
		found, err := dropIns(dir)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	var errs []error
	for _, f := range files {
		doc, err := read(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for k := range doc {
			origin[k] = f
		}
		merge(merged, doc)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return decode(merged, origin)
}

func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of kubelet configuration drop-ins: %w", err)
	}
	var out []string
	for _, e := range entries { // sorted by name
		if strings.HasSuffix(e.Name(), ".conf") && !e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// read parses one file as far as every configuration file is the same.
func read(file string) (map[string]any, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("kubelet configuration: %w", err)
	}
	j, err := yaml.YAMLToJSONStrict(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", file, oneLine(err))
	}
	doc := map[string]any{}
	dec := json.NewDecoder(bytes.NewReader(j))
	dec.UseNumber() // or large numbers would lose digits on the way
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%s: it isn't a map of fields: begin with apiVersion: %s and kind: %s", file, apiVersion, kind)
	}
	if doc["apiVersion"] != apiVersion || doc["kind"] != kind {
		return nil, fmt.Errorf("%s: apiVersion %q and kind %q: write apiVersion: %s and kind: %s", file, text(doc["apiVersion"]), text(doc["kind"]), apiVersion, kind)
	}
	delete(doc, "apiVersion")
	delete(doc, "kind")
	return doc, nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

func merge(into, patch map[string]any) {
	for k, v := range patch {
		if v == nil {
			delete(into, k)
			continue
		}
		if sub, ok := v.(map[string]any); ok {
			if have, ok := into[k].(map[string]any); ok {
				merge(have, sub)
				continue
			}
		}
		into[k] = v
	}
}

func decode(doc map[string]any, origin map[string]string) (*Loaded, error) {
	out := &Loaded{Configuration: Default(), Given: map[string]bool{}}
	fields := map[string]reflect.Value{}
	v := reflect.ValueOf(&out.Configuration).Elem()
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("json")] = v.Field(i)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		value, err := json.Marshal(doc[name])
		if err != nil {
			return nil, err
		}
		out.Given[name] = true
		field, acts := fields[name]
		rule, no := refused[name]
		why, idle := ignored[name]
		switch {
		case acts:
			if _, means := zeroTag(v.Type(), name); !means {
				field.SetZero() // maps and lists replace the default, they don't add to it
			}
			dec := json.NewDecoder(bytes.NewReader(value))
			dec.DisallowUnknownFields()
			if err := dec.Decode(field.Addr().Interface()); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %s", origin[name], name, mend(err)))
			}
		case no:
			if !slices.Contains(rule.harmless, string(value)) {
				errs = append(errs, fmt.Errorf("%s: %s: %s isn't possible here: %s", origin[name], name, value, rule.why))
			}
		case idle:
			out.Notes = append(out.Notes, fmt.Sprintf("%s: %s changes nothing: %s", origin[name], name, why))
		default:
			errs = append(errs, fmt.Errorf("%s: unknown field %q: see the reference of %s for the fields that there are", origin[name], name, apiVersion))
		}
	}
	if len(errs) == 0 {
		out.complete(out.Given)
		errs = out.Validate()
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return out, nil
}

func zeroTag(t reflect.Type, name string) (string, bool) {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") == name {
			return t.Field(i).Tag.Lookup("zero")
		}
	}
	return "", false
}

// mend puts a decoder's words into the reader's.
func mend(err error) string {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		at := ""
		if mismatch.Field != "" {
			at = mismatch.Field + ": "
		}
		return fmt.Sprintf("%sa %s is given where a %s belongs", at, mismatch.Value, mismatch.Type)
	}
	return strings.TrimPrefix(oneLine(err), "json: ")
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
