package validation_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/mote-edge/mote/controlplane/registry/scheme"
	"github.com/mote-edge/mote/controlplane/registry/validation"
)

// record is a valid object, and what upstream's API server 1.37.2 said to it after one change: fields and reasons.
type record struct {
	Object map[string]any
	Cases  []struct {
		Path  []any
		Value any
		Want  []string
	}
}

// TestAsUpstream compares our answers with upstream's, which were recorded from a running kube-apiserver. Defaulting comes
// first, as in a request.
func TestAsUpstream(t *testing.T) {
	data, err := os.ReadFile("testdata/upstream.json")
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	if err := json.Unmarshal(data, &records); err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		for _, c := range r.Cases {
			changed := change(r.Object, c.Path, c.Value)
			body, err := json.Marshal(changed)
			if err != nil {
				t.Fatal(err)
			}
			obj, err := runtime.Decode(scheme.Codecs().UniversalDecoder(), body)
			if err != nil {
				t.Errorf("%v %v: %v", r.Object["kind"], c.Path, err)
				continue
			}
			var got []string
			for _, e := range validation.Create(obj) {
				got = append(got, e.Field+": "+string(e.Type))
			}
			slices.Sort(got)
			slices.Sort(c.Want)
			if got = slices.Compact(got); !slices.Equal(got, c.Want) {
				t.Errorf("%v %v = %v:\n got %q\nwant %q", r.Object["kind"], c.Path, c.Value, got, c.Want)
			}
		}
	}
}

// change returns a copy of a JSON value in which the value at path is another one, or is gone.
func change(in any, path []any, value any) any {
	switch v := in.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			out[k] = x
		}
		k := path[0].(string)
		switch {
		case len(path) > 1:
			out[k] = change(v[k], path[1:], value)
		case value == "__del__":
			delete(out, k)
		default:
			out[k] = value
		}
		return out
	case []any:
		out := slices.Clone(v)
		i := int(path[0].(float64))
		switch {
		case len(path) > 1:
			out[i] = change(v[i], path[1:], value)
		case value == "__del__":
			out = slices.Delete(out, i, i+1)
		default:
			out[i] = value
		}
		return out
	}
	return value
}
