package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseLogQuery(t *testing.T) {
	for query, want := range map[string]string{
		"":                            "nothing",
		"query=kubelet":               "[kubelet]  []",
		"query=kubelet&query=crio":    "[kubelet crio]  []",
		"query=/foo/bar.log":          "[] /foo/bar.log []",
		"query=a&tailLines=5&boot=-1": "[a]  [--pager-end --lines=5 --boot -1]",
		"query=a&sinceTime=2026-01-02T03:04:05%2B01:00": "[a]  [--since=2026-1-2 02:04:05]",
		"query=a&pattern=x.*y":                          "[a]  [--grep=x.*y]",
		"query=%20":                                     "may not be empty",
		"tailLines=5":                                   "may not be empty",
		"query=a;rm":                                    "unsupported characters",
		"query=a%20b":                                   "unsupported characters",
		"query=--all%0a":                                "unsupported characters",
		"query=a&query=/b":                              "cannot specify a file and service",
		"query=/a&query=/b":                             "cannot specify more than one file",
		"query=/a&tailLines=1":                          "cannot specify file with options",
		"query=a&tailLines=100001":                      "must be in the range 0 to 100000",
		"query=a&boot=1":                                "must be less than 1",
		"query=a&boot=x":                                "boot: ",
		"query=a&sinceTime=today":                       "invalid time format",
		"query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z": "must be after",
		"query=a&pattern=(":                       "pattern: ",
		"query=a&query=b&query=c&query=d&query=e": "at most 4",
	} {
		values, _ := url.ParseQuery(strings.ReplaceAll(query, ";", "%3B"))
		q, asked, err := parseLogQuery(values)
		got := fmt.Sprint(q.services, " ", q.file, " ", q.options)
		if !asked {
			got = "nothing"
		}
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != want || err != nil && !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// Without a journal the log directory answers, and nothing outside of it.
func TestLogFilesOfTheNode(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir) // no journalctl
	logs := filepath.Join(dir, "log")
	for name, text := range map[string]string{"log/one": "1", "log/two.log": "2", "log/three/three.log": "3", "secret": "s"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(logs, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		queries bool
		query   string
		code    int
		want    string
	}{
		{true, "?query=one", 200, "1"},
		{true, "?query=two", 200, "2"},
		{true, "?query=three", 200, "3"},
		{true, "?query=one&query=two", 200, "12"},
		{true, "?query=four", 200, "\nlog not found for four\n"},
		{true, "?query=/three/three.log", 200, "3"},
		{true, "?query=/../secret", 400, "query: "},
		{true, "?query=/link", 400, "query: "},
		{true, "?query=one&tailLines=1", 200, "try without specifying options"},
		{true, "?query=", 400, "may not be empty"},
		{true, "one", 200, "1"},
		{false, "?query=one", 200, "<a href=\"one\">"},
	} {
		s := New(Config{NodeLogs: logs, LogQueries: c.queries})
		w := httptest.NewRecorder()
		s.systemLogs().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/logs/"+c.query, nil))
		if body := w.Body.String(); w.Code != c.code || !strings.Contains(body, c.want) || strings.HasSuffix(body, "s") && c.code == 200 {
			t.Errorf("%s: %d %q, want %d %q", c.query, w.Code, body, c.code, c.want)
		}
	}
}
