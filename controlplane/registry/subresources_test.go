package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

func account(t *testing.T, client kubernetes.Interface, ns string) *corev1.ServiceAccount {
	t.Helper()
	sa, err := client.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return sa
}

func running(ctx context.Context, t *testing.T, client kubernetes.Interface, ns, name string) *corev1.Pod {
	t.Helper()
	p, err := client.CoreV1().Pods(ns).Create(ctx, pod(name), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	p.Spec.Containers[0].Image = "a status update changes no spec"
	if p, err = client.CoreV1().Pods(ns).UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p.Spec.Containers[0].Image != "example.com/i:1" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("after the status update: %+v", p)
	}
	return p
}

func TestEvictionSpendsTheBudget(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	account(t, client, ns)
	one := intstr.FromInt32(1)
	budgets := client.PolicyV1().PodDisruptionBudgets(ns)
	b, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: &one, Selector: &metav1.LabelSelector{},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	if b, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := func(name string) error {
		return client.PolicyV1().Evictions(ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}})
	}
	running(ctx, t, client, ns, "p1")
	running(ctx, t, client, ns, "p2")
	// policy/v1beta1 isn't served, but upstream takes its Eviction as a body still, and old kubectls send it.
	if err := client.PolicyV1beta1().Evictions(ns).Evict(ctx, &policyv1beta1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p1", Namespace: ns}}); err != nil {
		t.Fatalf("within the budget: %v", err)
	}
	if _, err := client.CoreV1().Pods(ns).Get(ctx, "p1", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the evicted pod: %v", err)
	}
	if b, err = budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("the budget: %+v, %v", b.Status, err)
	}
	if err := evict("p2"); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "disruption budget") {
		t.Errorf("beyond the budget: %v", err)
	}
}

func TestScale(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	labels := map[string]string{"app": "d"}
	deployments := client.AppsV1().Deployments(ns)
	d, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("x").Spec},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := deployments.GetScale(ctx, "d", metav1.GetOptions{})
	if err != nil || s.Spec.Replicas != 1 || s.Status.Selector != "app=d" || s.UID != d.UID {
		t.Fatalf("%+v, %v", s, err)
	}
	stale := s.DeepCopy()
	s.Spec.Replicas = 3
	if s, err = deployments.UpdateScale(ctx, "d", s, metav1.UpdateOptions{FieldManager: "scaler"}); err != nil || s.Spec.Replicas != 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	if _, err := deployments.UpdateScale(ctx, "d", stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("a stale scale: %v", err)
	}
	if _, err := deployments.UpdateScale(ctx, "d", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: -1}}, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("fewer than none: %v", err)
	}
	if d, err = deployments.Get(ctx, "d", metav1.GetOptions{}); err != nil || *d.Spec.Replicas != 3 || d.Generation != 2 {
		t.Errorf("%d replicas, generation %d, %v", *d.Spec.Replicas, d.Generation, err)
	}
	owned := false
	for _, f := range d.ManagedFields {
		owned = owned || f.Manager == "scaler" && f.Subresource == "scale" && strings.Contains(f.FieldsV1.GetRawString(), "f:replicas")
	}
	if !owned {
		t.Errorf("nobody owns replicas: %v", d.ManagedFields)
	}
}

func TestBoundToken(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	sa := account(t, client, ns)
	p, err := client.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hour := int64(3600)
	request := func(ref *authenticationv1.BoundObjectReference, seconds *int64) (*authenticationv1.TokenRequest, error) {
		return client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, sa.Name, &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: ref, ExpirationSeconds: seconds},
		}, metav1.CreateOptions{})
	}
	bound := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}
	token, err := request(bound, &hour)
	if err != nil {
		t.Fatal(err)
	}
	var later []*authenticationv1.TokenRequest
	for range 20 {
		r, err := request(bound, &hour)
		if err != nil {
			t.Fatal(err)
		}
		later = append(later, r)
	}
	review := func(token *authenticationv1.TokenRequest) authenticationv1.TokenReviewStatus {
		r, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if st := review(token); !st.Authenticated || st.User.Username != "system:serviceaccount:"+ns+":default" || st.User.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Errorf("%+v", st)
	}
	if err := client.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Answers are remembered for some seconds, so that each question needs another token.
	for st := review(later[0]); st.Authenticated; st = review(later[0]) {
		if later = later[1:]; len(later) == 0 {
			t.Fatal("the token outlives its pod")
		}
		time.Sleep(50 * time.Millisecond) // the authenticator hears of the pod's end by a watch
	}
	minute := int64(60)
	if _, err := request(nil, &minute); !apierrors.IsInvalid(err) {
		t.Errorf("a token for a minute: %v", err)
	}
	if _, err := request(&authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "gone"}, &hour); !apierrors.IsNotFound(err) {
		t.Errorf("bound to nothing: %v", err)
	}
}

func TestNamespaceLife(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	got, err := client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
	if err != nil || got.Status.Phase != corev1.NamespaceActive || got.Labels[corev1.LabelMetadataName] != ns ||
		len(got.Spec.Finalizers) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err = client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); err != nil || got.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("%+v, %v", got.Status, err)
	}
	_, err = client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("a create in a terminating namespace: %v", err)
	}
	got.Spec.Finalizers = nil
	if _, err := client.CoreV1().Namespaces().Finalize(ctx, got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the last finalizer: %v", err)
	}
}

func TestPodEdits(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	account(t, client, ns)
	p := pod("p")
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	pods := client.CoreV1().Pods(ns)
	p, err := pods.Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("1")
	if p, err = pods.UpdateResize(ctx, "p", p, metav1.UpdateOptions{}); err != nil || p.Generation != 2 {
		t.Fatalf("resize: generation %d, %v", p.Generation, err)
	}
	p.Spec.Containers[0].Resources.Requests = nil
	if _, err := pods.UpdateResize(ctx, "p", p, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a resize to nothing: %v", err)
	}
	debug := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "d"}}
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, debug)
	if p, err = pods.UpdateEphemeralContainers(ctx, "p", p, metav1.UpdateOptions{}); err != nil || len(p.Spec.EphemeralContainers) != 1 || p.Generation != 3 {
		t.Fatalf("%+v, %v", p.Spec.EphemeralContainers, err)
	}
	p.Spec.EphemeralContainers = nil
	if _, err := pods.UpdateEphemeralContainers(ctx, "p", p, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an ephemeral container was taken away: %v", err)
	}
}

func TestJobSelectsByItsUID(t *testing.T) {
	client, ns := namespace(t)
	spec := pod("x").Spec
	spec.RestartPolicy = corev1.RestartPolicyNever
	j, err := client.BatchV1().Jobs(ns).Create(t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "j-"}, Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: spec}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	labels := j.Spec.Template.Labels
	if j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] != string(j.UID) || labels[batchv1.JobNameLabel] != j.Name || labels["controller-uid"] != string(j.UID) {
		t.Errorf("%v %v", j.Spec.Selector, labels)
	}
}

// The two event groups show one storage.
func TestEventsOfBothGroups(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	_, err := client.CoreV1().Events(ns).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: ns}, Reason: "R", Message: "m", Type: "Normal",
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.EventsV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p,reason=R"})
	if err != nil || len(list.Items) != 1 || list.Items[0].Note != "m" {
		t.Errorf("%+v, %v", list, err)
	}
}

// What kubectl shows: a table, with the wide columns marked.
func TestTableOverHTTP(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	account(t, client, ns)
	if _, err := client.CoreV1().Pods(ns).Create(ctx, pod("p"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	raw, err := client.CoreV1().RESTClient().Get().Namespace(ns).Resource("pods").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	var narrow, wide []string
	for _, c := range table.ColumnDefinitions {
		if c.Priority == 0 {
			narrow = append(narrow, c.Name)
		} else {
			wide = append(wide, c.Name)
		}
	}
	if n, w := strings.Join(narrow, ","), strings.Join(wide, ","); n != "Name,Ready,Status,Restarts,Age" || w != "IP,Node,Nominated Node,Readiness Gates" {
		t.Errorf("columns %s; %s", n, w)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[1] != "0/1" || table.Rows[0].Cells[2] != "Pending" {
		t.Errorf("rows %+v", table.Rows)
	}
}

// Apply knows who owns what, and which fields a writer can't own.
func TestApplyConflicts(t *testing.T) {
	client, ns := namespace(t)
	ctx := t.Context()
	apply := func(manager, body string, force bool) error {
		_, err := client.CoreV1().ConfigMaps(ns).Patch(ctx, "c", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
		return err
	}
	const head = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":`
	if err := apply("one", head+`{"a":"1","b":"1"}}`, false); err != nil {
		t.Fatal(err)
	}
	if err := apply("two", head+`{"a":"2"}}`, false); !apierrors.IsConflict(err) {
		t.Errorf("another's field: %v", err)
	}
	if err := apply("two", head+`{"a":"2"}}`, true); err != nil {
		t.Fatal(err)
	}
	if err := apply("one", head+`{}}`, false); err != nil {
		t.Fatal(err)
	}
	c, err := client.CoreV1().ConfigMaps(ns).Get(ctx, "c", metav1.GetOptions{})
	if err != nil || len(c.Data) != 1 || c.Data["a"] != "2" {
		t.Errorf("%v, %v: what one gave up goes, what two owns stays", c.Data, err)
	}
	var status apierrors.APIStatus
	bad := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"dta":{}}`
	if err := apply("one", bad, false); !errors.As(err, &status) {
		t.Errorf("an unknown field: %v", err)
	}
}
