package apiservertest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mote-edge/mote/controlplane/apiserver"
	"github.com/mote-edge/mote/controlplane/apiserver/bootstraptoken"
)

var shared *Server

func TestMain(m *testing.M) {
	child()
	dir, err := os.MkdirTemp("", "apiservertest-")
	if err == nil {
		shared, err = Run(context.Background(), Options{Dir: dir})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := errors.Join(shared.Stop(), os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// external returns a client that comes through the listener, with the administrator's certificate.
func external(t *testing.T, change ...func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", shared.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(cfg)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// token makes a configuration authenticate by a token alone.
func token(text string) func(*rest.Config) {
	return func(c *rest.Config) {
		c.CertData, c.KeyData, c.BearerToken = nil, nil, text
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": value}}
}

func TestStaleUpdateConflicts(t *testing.T) {
	api := external(t).CoreV1().ConfigMaps(shared.Namespace(t))
	cm, err := api.Create(t.Context(), configMap("a", "1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fresh := cm.DeepCopy()
	fresh.Data["k"] = "2"
	if _, err := api.Update(t.Context(), fresh, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cm.Data["k"] = "3"
	if _, err := api.Update(t.Context(), cm, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a stale update got %v, want a conflict", err)
	}
}

func TestWatchSeesEveryChangeAndBookmarks(t *testing.T) {
	for name, client := range map[string]kubernetes.Interface{"TLS": external(t), "in process": shared.Client} {
		t.Run(name, func(t *testing.T) {
			api := client.CoreV1().ConfigMaps(shared.Namespace(t))
			yes := true
			w, err := api.Watch(t.Context(), metav1.ListOptions{
				SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			next := func() watch.Event {
				select {
				case e := <-w.ResultChan():
					return e
				case <-time.After(5 * time.Second):
					t.Fatal("no event within 5 seconds")
					return watch.Event{}
				}
			}
			if e := next(); e.Type != watch.Bookmark {
				t.Fatalf("got %v %v, want the bookmark that ends the initial events", e.Type, e.Object)
			}
			if _, err := api.Create(t.Context(), configMap("w", "1"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := api.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := api.Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
				if e := next(); e.Type != want {
					t.Fatalf("got %v, want %v", e.Type, want)
				}
			}
		})
	}
}

// A cache that asks etcd how far it is must not put bookmarks into watches of kinds without a cache (seen in upstream's
// ValidatingAdmissionPolicy conformance spec).
func TestNoBookmarksUnasked(t *testing.T) {
	client := external(t)
	maps := client.CoreV1().ConfigMaps(shared.Namespace(t))
	policies := client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	w, err := policies.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 20 { // a consistent list makes the cache of ConfigMaps ask, as others wrote meanwhile
		if _, err := client.CoreV1().Secrets(shared.Namespace(t)).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i)}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "no-bookmarks"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		Validations: []admissionregistrationv1.Validation{{Expression: "true"}},
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{"example.com"}, APIVersions: []string{"v1"}, Resources: []string{"nothings"}},
		}}}},
	}}
	if _, err := policies.Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = policies.Delete(context.WithoutCancel(t.Context()), "no-bookmarks", metav1.DeleteOptions{})
	}()
	for e := range w.ResultChan() {
		if e.Type != watch.Added {
			t.Fatalf("got %v %v, want what was added alone", e.Type, e.Object)
		}
		if e.Object.(*admissionregistrationv1.ValidatingAdmissionPolicy).Name == "no-bookmarks" {
			return
		}
	}
	t.Error("the watch ended")
}

func TestListPages(t *testing.T) {
	api := external(t).CoreV1().ConfigMaps(shared.Namespace(t))
	for i := range 7 {
		if _, err := api.Create(t.Context(), configMap(fmt.Sprintf("p%d", i), ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	opts := metav1.ListOptions{Limit: 3}
	for pages := 0; ; pages++ {
		l, err := api.List(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range l.Items {
			names = append(names, c.Name)
		}
		if opts.Continue = l.Continue; l.Continue == "" {
			if pages != 2 {
				t.Errorf("%d pages, want 3", pages+1)
			}
			break
		}
	}
	if len(names) != 7 {
		t.Errorf("%v, want 7 names", names)
	}
}

func TestApplyOwnsFields(t *testing.T) {
	ns := shared.Namespace(t)
	api := external(t).CoreV1().ConfigMaps(ns)
	apply := func(owner, value string, force bool) error {
		_, err := api.Apply(t.Context(), applycorev1.ConfigMap("a", ns).WithData(map[string]string{"k": value}), metav1.ApplyOptions{FieldManager: owner, Force: force})
		return err
	}
	if err := apply("one", "1", false); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", "2", false); !apierrors.IsConflict(err) {
		t.Errorf("another owner's apply got %v, want a conflict", err)
	}
	if err := apply("two", "2", true); err != nil {
		t.Fatal(err)
	}
	cm, err := api.Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]bool{}
	for _, f := range cm.ManagedFields {
		owners[f.Manager] = true
	}
	if cm.Data["k"] != "2" || !owners["two"] || owners["one"] {
		t.Errorf("data %v, owners %v; want 2, owned by two alone", cm.Data, owners)
	}
}

func TestDryRunStoresNothing(t *testing.T) {
	api := external(t).CoreV1().ConfigMaps(shared.Namespace(t))
	if _, err := api.Create(t.Context(), configMap("dry", ""), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Get(t.Context(), "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

func TestUnknownFieldIsRefusedWhenStrict(t *testing.T) {
	dyn, err := dynamic.NewForConfig(shared.Config)
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "s"}, "dta": map[string]any{}}}
	api := dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(shared.Namespace(t))
	if _, err := api.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: "Strict"}); !apierrors.IsBadRequest(err) {
		t.Errorf("got %v, want a bad request", err)
	}
	if _, err := api.Create(t.Context(), o, metav1.CreateOptions{FieldValidation: "Warn"}); err != nil {
		t.Error(err)
	}
}

func TestRBACDecides(t *testing.T) {
	ns := shared.Namespace(t)
	alice := shared.ClientAs(t, "alice", "system:authenticated")
	if _, err := alice.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("got %v, want forbidden", err)
	}
	_, err := shared.Client.RbacV1().Roles(ns).Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shared.Client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "alice"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "alice"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := alice.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	if _, err := alice.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("got %v, want forbidden", err)
	}
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 100 {
		if err = f(); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal(err)
}

func TestNodeReadsWhatItsPodsUse(t *testing.T) {
	ns := shared.Namespace(t)
	node := shared.ClientAs(t, "system:node:n1", "system:nodes", "system:authenticated")
	for _, name := range []string{"used", "other"} {
		if _, err := shared.Client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	get := func(name string) error {
		_, err := node.CoreV1().Secrets(ns).Get(t.Context(), name, metav1.GetOptions{})
		return err
	}
	if err := get("used"); !apierrors.IsForbidden(err) {
		t.Fatalf("before the pod: %v, want forbidden", err)
	}
	_, err := shared.Client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}},
		}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := get("used"); err != nil { // at once: the kubelet asks the moment it sees the pod
		t.Error(err)
	}
	if err := get("other"); !apierrors.IsForbidden(err) {
		t.Errorf("another secret: %v, want forbidden", err)
	}
	if _, err := node.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}); err != nil {
		t.Error(err)
	}
	if _, err := node.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all pods: %v, want forbidden", err)
	}
}

func TestServiceAccountToken(t *testing.T) {
	ns := shared.Namespace(t)
	ctx := t.Context()
	p, err := shared.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	request := func(audiences ...string) string {
		r, err := shared.Client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			Audiences:      audiences,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	who := func(tok string) (*authenticationv1.SelfSubjectReview, error) {
		return external(t, token(tok)).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	good := request()
	r, err := who(good)
	if err != nil {
		t.Fatal(err)
	}
	u := r.Status.UserInfo
	if u.Username != "system:serviceaccount:"+ns+":default" || u.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Errorf("the token's user is %+v", u)
	}
	if _, err := who(request("elsewhere")); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: %v, want unauthorized", err)
	}
	if _, err := who(good[:len(good)-4] + "AAAA"); !apierrors.IsUnauthorized(err) {
		t.Errorf("a forged token: %v, want unauthorized", err)
	}
	zero := int64(0)
	if err := shared.Client.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	review, err := shared.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: request1(t, ns)}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		t.Errorf("a token without a pod: %+v, %v", review.Status, err)
	}
}

func request1(t *testing.T, ns string) string {
	t.Helper()
	r, err := shared.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func TestBootstrapToken(t *testing.T) {
	tok, err := bootstraptoken.Create(t.Context(), shared.Client, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	joiner := external(t, token(tok.ID+"."+tok.Secret))
	r, err := joiner.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status.UserInfo.Username != "system:bootstrap:"+tok.ID {
		t.Errorf("the token's user is %s", r.Status.UserInfo.Username)
	}
	if _, err := joiner.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a joining node lists secrets: %v, want forbidden", err)
	}
	if _, err := joiner.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	list, err := bootstraptoken.List(t.Context(), shared.Client)
	if err != nil || len(list) != 1 || list[0].ID != tok.ID {
		t.Errorf("list %+v, %v", list, err)
	}
	if err := bootstraptoken.Delete(t.Context(), shared.Client, tok.Join(shared.PKI.CA.Hash())); err != nil {
		t.Fatal(err)
	}
	if err := bootstraptoken.Delete(t.Context(), shared.Client, tok.ID); !errors.Is(err, bootstraptoken.ErrUnknown) {
		t.Errorf("the second delete: %v", err)
	}
}

func TestAnonymousAndPublicPaths(t *testing.T) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(shared.CA)
	plain := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	for path, want := range map[string]int{
		"/version": 200, "/readyz": 200, "/livez": 200, "/api/v1/namespaces": 403, "/openid/v1/jwks": 403, "/metrics": 403,
	} {
		r, err := plain.Get(shared.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if err := r.Body.Close(); err != nil || r.StatusCode != want {
			t.Errorf("%s: %d, want %d (%v)", path, r.StatusCode, want, err)
		}
		if len(r.TLS.PeerCertificates) != 2 {
			t.Errorf("the chain has %d certificates; a joining node needs the authority's too", len(r.TLS.PeerCertificates))
		}
	}
}

func TestIssuerDiscovery(t *testing.T) {
	body, err := shared.Client.Discovery().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &c); err != nil || c.Issuer != "https://kubernetes.default.svc.cluster.local" || c.JWKS == "" {
		t.Errorf("%s %v", body, err)
	}
}

func TestCustomResource(t *testing.T) {
	ctx := t.Context()
	ext, err := apiextensions.NewForConfig(shared.Config)
	if err != nil {
		t.Fatal(err)
	}
	crds := ext.ApiextensionsV1().CustomResourceDefinitions()
	_, err = crds.Create(ctx, &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "things.test.mote.dev"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "test.mote.dev", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "things", Singular: "thing", Kind: "Thing", ListKind: "ThingList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"size": {Type: "integer"}}}},
				}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = crds.Delete(context.Background(), "things.test.mote.dev", metav1.DeleteOptions{}) })
	dyn, err := dynamic.NewForConfig(shared.Config)
	if err != nil {
		t.Fatal(err)
	}
	api := dyn.Resource(schema.GroupVersionResource{Group: "test.mote.dev", Version: "v1", Resource: "things"}).Namespace(shared.Namespace(t))
	thing := func(size any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "test.mote.dev/v1", "kind": "Thing", "metadata": map[string]any{"name": "x"}, "spec": map[string]any{"size": size},
		}}
	}
	eventually(t, func() error {
		_, err := api.Create(ctx, thing(int64(3)), metav1.CreateOptions{})
		return err
	})
	if _, err := api.Patch(ctx, "x", types.MergePatchType, []byte(`{"spec":{"size":"big"}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a string for an integer: %v, want invalid", err)
	}
	eventually(t, func() error {
		l, err := shared.Client.Discovery().ServerResourcesForGroupVersion("test.mote.dev/v1")
		if err == nil && len(l.APIResources) == 0 {
			return errors.New("discovery lists nothing")
		}
		return err
	})
	eventually(t, func() error {
		for _, path := range []string{"/openapi/v3/apis/test.mote.dev/v1", "/apis/test.mote.dev"} {
			if _, err := shared.Client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	})
}

func TestRestartKeepsObjectsAndIdentity(t *testing.T) {
	dir := t.TempDir()
	first := Start(t, Options{Dir: dir, Sync: true})
	if _, err := first.Client.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("kept", "1"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	second := Start(t, Options{Dir: dir})
	t.Logf("restarted in %v", time.Since(began))
	if _, err := second.Client.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if first.PKI.CA.Hash() != second.PKI.CA.Hash() {
		t.Error("the authority changed")
	}
}

func TestPriorityAndFairness(t *testing.T) {
	s := Start(t, Options{Configure: func(c *apiserver.Config) { c.Fairness = true }})
	l, err := s.Client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(l.Items) < 10 {
		t.Fatalf("%d flow schemas, want the defaults (%v)", len(l.Items), err)
	}
	eventually(t, func() error {
		var schema string
		cfg := rest.CopyConfig(s.Config)
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := next.RoundTrip(req)
				if err == nil {
					schema = resp.Header.Get("X-Kubernetes-Pf-Flowschema-Uid")
				}
				return resp, err
			})
		})
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		if _, err := client.CoreV1().Namespaces().List(t.Context(), metav1.ListOptions{}); err != nil {
			return err
		}
		if schema == "" {
			return errors.New("the request was not sorted into a flow schema")
		}
		return nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
