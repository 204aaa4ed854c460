package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// plugin is a real program: it notes each request and answers with what answer.json holds.
func writePlugin(t *testing.T, answer string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	script := "#!/bin/sh\ncat >> " + dir + "/requests\necho >> " + dir + "/requests\necho \"$0 $* $MARK\" >> " + dir + "/calls\ncat " + dir + "/answer.json\n"
	for name, text := range map[string]string{"plug": script, "answer.json": answer} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func calls(t *testing.T, dir string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n")
}

func openPlugin(t *testing.T, dir, more string, accounts Accounts) *Providers {
	t.Helper()
	config := `
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plug
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.r.io", "r.io:5000/team"]
  defaultCacheDuration: 1m
  args: [get]
  env: [{name: MARK, value: marked}]
` + more
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := OpenProviders(path, dir, accounts, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func answer(scope, duration, user string) string {
	if duration != "" {
		duration = `"cacheDuration":"` + duration + `",`
	}
	return `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"` + scope + `",` + duration +
		`"auth":{"*.r.io":{"username":"` + user + `","password":"p"}}}`
}

func ask(p *Providers, pod *corev1.Pod, repository string) []login {
	var k keyring
	p.add(context.Background(), &k, pod, repository)
	return k.lookup(repository)
}

// The cache holds an answer for the image, the registry or the node, for as long as the plugin or the configuration says.
func TestProviderCache(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		ask    []string
		after  time.Duration // between the first and the others
		want   int           // runs
	}{
		"by image":            {answer("Image", "", "u"), []string{"x.r.io/a", "x.r.io/a", "x.r.io/b"}, 0, 2},
		"by registry":         {answer("Registry", "", "u"), []string{"x.r.io/a", "x.r.io/b", "y.r.io/a"}, 0, 2},
		"for all":             {answer("Global", "", "u"), []string{"x.r.io/a", "x.r.io/b", "y.r.io/a"}, 0, 1},
		"until the default":   {answer("Global", "", "u"), []string{"x.r.io/a", "x.r.io/a"}, 2 * time.Minute, 2},
		"until it says":       {answer("Global", "1h", "u"), []string{"x.r.io/a", "x.r.io/a"}, 2 * time.Minute, 1},
		"not at all":          {answer("Global", "0s", "u"), []string{"x.r.io/a", "x.r.io/a"}, 0, 2},
		"images it isn't for": {answer("Global", "", "u"), []string{"r.io/a", "q.io/a", "docker.io/library/a"}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := writePlugin(t, c.answer)
			p := openPlugin(t, dir, "", nil)
			now := time.Now()
			p.list[0].now = func() time.Time { return now }
			for i, repo := range c.ask {
				if got := users(ask(p, &corev1.Pod{}, repo)); c.want > 0 && got != "u" {
					t.Errorf("%s: logins %q", repo, got)
				}
				if i == 0 {
					now = now.Add(c.after)
				}
			}
			if n := calls(t, dir); n != c.want {
				t.Errorf("%d runs, want %d", n, c.want)
			}
		})
	}
}

func TestProviderCall(t *testing.T) {
	dir := writePlugin(t, answer("Image", "", "u"))
	p := openPlugin(t, dir, "", nil)
	logins := ask(p, &corev1.Pod{}, "x.r.io/a")
	if users(logins) != "u" || logins[0].secret != nil || logins[0].account != nil {
		t.Errorf("%+v", logins)
	}
	req, err := os.ReadFile(filepath.Join(dir, "requests"))
	if want := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"x.r.io/a"`; err != nil || !strings.HasPrefix(string(req), want) {
		t.Errorf("request %s, %v", req, err)
	}
	if call, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || !strings.Contains(string(call), "/plug get marked") {
		t.Errorf("call %s, %v", call, err)
	}
}

// What is wrong with an answer is said without quoting it, and the pull goes on without.
func TestProviderFaults(t *testing.T) {
	for name, c := range map[string]struct{ script, err string }{
		"it fails":             {"#!/bin/sh\necho no token >&2\nexit 3\n", "exit status 3: no token"},
		"not JSON":             {"#!/bin/sh\necho hunter2\n", "error decoding credential provider plugin response from stdout"},
		"another version":      {`#!/bin/sh` + "\n" + `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1beta1"}'`, "did not match expected apiVersion"},
		"another kind":         {`#!/bin/sh` + "\n" + `echo '{"kind":"Pod","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}'`, "unexpected Kind"},
		"unknown field":        {`#!/bin/sh` + "\n" + `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","x":1}'`, "error decoding"},
		"no cache key":         {"#!/bin/sh\necho '" + strings.Replace(answer("Image", "", "u"), "Image", "Moon", 1) + "'", "valid cacheKeyType"},
		"it writes for ever":   {"#!/bin/sh\nexec cat /dev/zero\n", "plug"},
		"not a program at all": {"nonsense", "plug"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := writePlugin(t, "")
			if err := os.WriteFile(filepath.Join(dir, "plug"), []byte(c.script), 0o700); err != nil {
				t.Fatal(err)
			}
			p := openPlugin(t, dir, "", nil)
			_, _, err := p.list[0].credentials(t.Context(), &corev1.Pod{}, "x.r.io/a")
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v, want %q", err, c.err)
			}
			if got := ask(p, &corev1.Pod{}, "x.r.io/a"); len(got) != 0 {
				t.Errorf("logins %v", got)
			}
		})
	}
}

type accounts struct {
	mu     sync.Mutex
	tokens int
	err    error
}

func (a *accounts) ServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	if name == "none" {
		return nil, errors.New("not found")
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: "uid", Annotations: map[string]string{"r.io/id": "42", "else": "x"}}}
	if name == "plain" {
		sa.Annotations = nil
	}
	return sa, nil
}

func (a *accounts) Token(_ context.Context, ns, name string, tr *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens++
	if o := tr.Spec.BoundObjectRef; tr.UID != "uid" || o == nil || o.Kind != "Pod" || len(tr.Spec.Audiences) != 1 || tr.Spec.Audiences[0] != "aud" {
		return nil, fmt.Errorf("an unexpected request: %+v", tr)
	}
	tr.Status.Token = fmt.Sprintf("token-of-%s-%s", name, tr.Spec.BoundObjectRef.Name)
	return tr, a.err
}

// Plugins that work with the pod's service account get its token, bound to the pod (KEP 4412).
func TestProviderWithServiceAccount(t *testing.T) {
	attrs := func(cache, required string) string {
		return "  tokenAttributes:\n    serviceAccountTokenAudience: aud\n    cacheType: " + cache + "\n    requireServiceAccount: " + required +
			"\n    optionalServiceAccountAnnotationKeys: [also]\n"
	}
	pod := func(name, account string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "u"}, Spec: corev1.PodSpec{ServiceAccountName: account}}
	}
	t.Run("by account", func(t *testing.T) {
		dir := writePlugin(t, answer("Global", "", "u"))
		p := openPlugin(t, dir, attrs("ServiceAccount", "true")+"    requiredServiceAccountAnnotationKeys: [r.io/id]\n", &accounts{})
		got := ask(p, pod("a", "sa"), "x.r.io/a")
		if users(got) != "u" || got[0].account == nil || *got[0].account != (pullAccount{UID: "uid", Namespace: "ns", Name: "sa"}) {
			t.Fatalf("%+v", got)
		}
		req, _ := os.ReadFile(filepath.Join(dir, "requests"))
		if !strings.Contains(string(req), `"serviceAccountToken":"token-of-sa-a"`) || !strings.Contains(string(req), `"serviceAccountAnnotations":{"r.io/id":"42"}`) {
			t.Errorf("request %s", req)
		}
		ask(p, pod("b", "sa"), "x.r.io/a") // the same account
		ask(p, pod("c", "sb"), "x.r.io/a") // another
		if n := calls(t, dir); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
		if got := ask(p, pod("d", "plain"), "x.r.io/a"); len(got) != 0 {
			t.Errorf("an account without the annotation got %v", got)
		}
		if got := ask(p, pod("e", ""), "x.r.io/a"); len(got) != 0 {
			t.Errorf("a pod without an account got %v", got)
		}
		if n := calls(t, dir); n != 2 {
			t.Errorf("%d runs, want 2", n)
		}
	})
	t.Run("by token", func(t *testing.T) {
		dir := writePlugin(t, answer("Global", "", "u"))
		p := openPlugin(t, dir, attrs("Token", "false"), &accounts{})
		ask(p, pod("a", "sa"), "x.r.io/a")
		ask(p, pod("a", "sa"), "x.r.io/a")
		ask(p, pod("b", "sa"), "x.r.io/a") // a token of its own
		ask(p, pod("c", ""), "x.r.io/a")   // allowed without
		if n := calls(t, dir); n != 3 {
			t.Errorf("%d runs, want 3", n)
		}
	})
	t.Run("the token itself as password", func(t *testing.T) {
		echo := strings.Replace(answer("Global", "", "u"), `"password":"p"`, `"password":"token-of-sa-a"`, 1)
		p := openPlugin(t, writePlugin(t, echo), attrs("ServiceAccount", "true"), &accounts{})
		if _, _, err := p.list[0].credentials(t.Context(), pod("a", "sa"), "x.r.io/a"); err == nil || !strings.Contains(err.Error(), "not allowed when service account cache type") {
			t.Error(err)
		}
		p = openPlugin(t, writePlugin(t, echo), attrs("Token", "true"), &accounts{})
		if got := users(ask(p, pod("a", "sa"), "x.r.io/a")); got != "u" {
			t.Errorf("logins %q", got)
		}
	})
	t.Run("faults", func(t *testing.T) {
		p := openPlugin(t, writePlugin(t, answer("Global", "", "u")), attrs("ServiceAccount", "true"), &accounts{err: errors.New("forbidden")})
		for account, want := range map[string]string{"sa": "failed to get service account token: forbidden", "none": "failed to get service account: not found"} {
			if _, _, err := p.list[0].credentials(t.Context(), pod("a", account), "x.r.io/a"); err == nil || err.Error() != want {
				t.Errorf("%s: %v", account, err)
			}
		}
	})
}

func TestProviderRunsOnceForManyWhoAsk(t *testing.T) {
	dir := writePlugin(t, answer("Image", "", "u"))
	script := "#!/bin/sh\necho x >> " + dir + "/calls\nwhile [ ! -e " + dir + "/go ]; do sleep 0.01; done\ncat " + dir + "/answer.json\n"
	if err := os.WriteFile(filepath.Join(dir, "plug"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	p := openPlugin(t, dir, "", nil)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if got := users(ask(p, &corev1.Pod{}, "x.r.io/a")); got != "u" {
				t.Errorf("logins %q", got)
			}
		})
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if n := calls(t, dir); n != 1 {
		t.Errorf("%d runs", n)
	}
}

func TestProviderConfig(t *testing.T) {
	const head = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n"
	const good = "- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io], defaultCacheDuration: 0s"
	for name, c := range map[string]struct{ text, err string }{
		"good":            {head + good + "}", ""},
		"old version":     {strings.Replace(head, "/v1\n", "/v1beta1\n", 1) + strings.Replace(good, "k8s.io/v1,", "k8s.io/v1alpha1,", 1) + "}", ""},
		"another kind":    {"apiVersion: v1\nkind: Pod\n", "write kind CredentialProviderConfig"},
		"none":            {head, "at least 1 item in plugins is required"},
		"unknown field":   {head + good + ", color: red}", "color"},
		"twice the field": {head + good + ", name: b}", "already set"},
		"path as name":    {head + strings.Replace(good, "name: a", "name: ../a", 1) + "}", `provider "../a": name`},
		"no images":       {head + "- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, defaultCacheDuration: 0s}", "at least 1 item in matchImages is required"},
		"no duration":     {head + "- {name: a, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [r.io]}", "defaultCacheDuration"},
		"negative":        {head + strings.Replace(good, "0s", "-1s", 1) + "}", "greater than or equal to 0"},
		"unknown API":     {head + strings.Replace(good, "k8s.io/v1,", "k8s.io/v7,", 1) + "}", "use credentialprovider.kubelet.k8s.io/v1"},
		"no audience":     {head + good + ", tokenAttributes: {cacheType: Token, requireServiceAccount: true}}", "serviceAccountTokenAudience"},
		"no requirement":  {head + good + ", tokenAttributes: {cacheType: Token, serviceAccountTokenAudience: a}}", "requireServiceAccount"},
		"no cache type":   {head + good + ", tokenAttributes: {serviceAccountTokenAudience: a, requireServiceAccount: true}}", "cacheType"},
		"twice a key": {head + good + ", tokenAttributes: {serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token, " +
			"requiredServiceAccountAnnotationKeys: [k], optionalServiceAccountAnnotationKeys: [k]}}", "listed twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseProviderConfig([]byte(c.text))
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
	dir := t.TempDir()
	for _, n := range []string{"1.yaml", "2.yml"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(head+strings.Replace(good, "name: a", "name: a"+n[:1], 1)+"}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := loadProviderConfig(dir); err != nil || len(list) != 2 || list[0].Name != "a1" {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := OpenProviders(dir, t.TempDir(), nil, slog.Default()); err == nil || !strings.Contains(err.Error(), "install it there") {
		t.Errorf("a missing program: %v", err)
	}
}

func FuzzProviderAnswer(f *testing.F) {
	f.Add([]byte(answer("Image", "1h", "u")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if resp, err := parseAnswer(data, providerVersion); (resp == nil) == (err == nil) {
			t.Error("neither an answer nor an error")
		}
	})
}
