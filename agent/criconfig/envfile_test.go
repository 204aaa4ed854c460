package criconfig

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestEnvFileValue(t *testing.T) {
	for name, c := range map[string]struct{ text, want, err string }{
		"plain":                 {"A='1'\nK='v'\n", "v", ""},
		"without a last line":   {"K='v'", "v", ""},
		"comments, blank lines": {"# K='no'\n\n  \t\n  K='v' # why\n", "v", ""},
		"several lines":         {"A='1'\nK='a\n b\n\nc'\nZ='2'", "a\n b\n\nc", ""},
		"literal":               {`K='$A \n "x"'`, `$A \n "x"`, ""},
		"absent":                {"A='1'\n", "", ""},
		"empty file":            {"", "", ""},
		"empty":                 {"K=''\n", "", ""},
		"blank after the sign":  {"K= 'v'\n", "", ""},
		"another's blank":       {"A= 'x'\nK='v'\n", "v", ""},
		"blank before the sign": {"K ='v'\n", "", "line 1: whitespace before '='"},
		"no sign":               {"\nK\n", "", "line 2: missing '='"},
		"no name":               {"='v'\n", "", "line 1: empty variable name"},
		"no quotes":             {"K=v\n", "", "line 1: value must be enclosed"},
		"no value":              {"K=\n", "", "line 1: value must be enclosed"},
		"double quotes":         {"K=\"v\"\n", "", "line 1: value must be enclosed"},
		"never closed":          {"A='1'\nK='v\nx\n", "", "line 2: unclosed single quote"},
		"more after the quote":  {"K='v'x\n", "", "line 1: unexpected content"},
	} {
		got, err := EnvFileValue(c.text, "K")
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %q, %v; want %q, %q", name, got, err, c.want, c.err)
		}
	}
}

func TestEnvFromFile(t *testing.T) {
	for name, c := range map[string]struct {
		path, key string
		optional  bool
		want, err string
	}{
		"there":             {"f.env", "K", false, "v", ""},
		"no key":            {"f.env", "X", false, "", `environment variable key "X" not found in file "f.env"`},
		"no key, optional":  {"f.env", "X", true, "-", ""},
		"no file":           {"g.env", "K", false, "", "couldn't parse env file"},
		"no file, optional": {"g.env", "K", true, "-", ""},
		"a bad file":        {"bad", "K", true, "", "couldn't parse env file"},
	} {
		ref := &corev1.FileKeySelector{VolumeName: "v", Path: c.path, Key: c.key, Optional: &c.optional}
		vars, _, err := Env(context.Background(), EnvInput{
			Pod: &corev1.Pod{}, Container: &corev1.Container{Env: []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{FileKeyRef: ref}}}},
			File: func(volume, path string) (string, error) {
				switch path {
				case "f.env":
					return "K='v'", nil
				case "bad":
					return "K", nil
				}
				return "", ErrNoFile
			},
		})
		got := "-"
		if len(vars) > 0 {
			got = vars[0].Value
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || err == nil && got != c.want {
			t.Errorf("%s: %q, %v; want %q, %q", name, got, err, c.want, c.err)
		}
		if c.path == "g.env" && err != nil && !errors.Is(err, ErrNoFile) {
			t.Errorf("%s: %v doesn't say that there is no file", name, err)
		}
	}
}
