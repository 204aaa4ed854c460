package imageref

import (
	"strings"
	"testing"

	library "github.com/distribution/reference"
)

func FuzzParse(f *testing.F) {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, s := range []string{
		"busybox", "r.io:5000/a/b:1", "a@" + sum, "a:1@" + sum, "[::1]:5000/a", "[::1]/a", "[::1]a/b", "[]:1/a", "[::1]:/a", "../etc", sum[7:], sum,
		"localhost/a", "localhost:1/a", "Host/a", "Host", "a/B", "index.docker.io/a", "docker.io/a", "docker.io/a/b", "a.b", "a.b/c", "-a.b/c", "a-.b/c", "a..b/c", "a:/b",
		"a__b", "a___b", "a_-b", "a--b", "a-", "a.-b", "a//b", "/a", "a/", "", ":1", "a:", "a:-1", "a:_1", "a:" + strings.Repeat("1", 129), strings.Repeat("a", 256),
		"r.io/" + strings.Repeat("a", 255), "a@sha256:00", "a@" + strings.ToUpper(sum), "a@md5:d41d8cd98f00b204e9800998ecf8427e", "a@" + sum + "@" + sum, "\u0430/b", "a\n", "\xff",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := Parse(text)
		theirs, theirErr := library.ParseDockerRef(text)
		if (err == nil) != (theirErr == nil) || err == nil && theirs.String() != ref.String() {
			t.Fatalf("%q: %q, %v; the library: %v, %v", text, ref, err, theirs, theirErr)
		}
		trimmed, trimErr := Trim(text)
		if (err == nil) != (trimErr == nil) {
			t.Fatalf("%q: %v, trimmed: %v", text, err, trimErr)
		}
		if err != nil {
			return
		}
		if again, err := Parse(ref.String()); err != nil || again.String() != ref.String() {
			t.Errorf("%q: %q, then %q, %v", text, ref, again, err)
		}
		if ref.Domain != library.Domain(theirs) || ref.Path != library.Path(theirs) || ref.Repository() != theirs.Name() || strings.Contains(ref.Path, "..") {
			t.Errorf("%q is %q of %q", text, ref.Path, ref.Domain)
		}
		named, err := library.ParseNormalizedNamed(text)
		if err != nil || library.IsNameOnly(named) != ref.Defaulted {
			t.Errorf("%q has neither tag nor digest: %t; the library: %t, %v", text, ref.Defaulted, !ref.Defaulted, err)
		}
		bare, err := Parse(trimmed)
		if err != nil || !bare.Defaulted || bare.Repository() != ref.Repository() || !strings.HasPrefix(text, trimmed) {
			t.Errorf("%q trimmed: %q, %v", text, trimmed, err)
		}
	})
}
