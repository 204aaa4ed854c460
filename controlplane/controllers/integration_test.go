package controllers_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/mote-edge/mote/controlplane/apiserver/apiservertest"
	"github.com/mote-edge/mote/controlplane/controllers"
	"github.com/mote-edge/mote/controlplane/objectfeed"
	"github.com/mote-edge/mote/controlplane/scheduler"
)

// server is one real API server with every controller and the scheduler at work, for all tests of this package.
var server *apiservertest.Server

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mote-controllers-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	server, err = apiservertest.Run(context.Background(), apiservertest.Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	defer func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	if err := start(ctx, done); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func start(ctx context.Context, done chan<- error) error {
	meta, err := metadata.NewForConfig(server.Config)
	if err != nil {
		return err
	}
	disc, err := discovery.NewDiscoveryClientForConfig(server.Config)
	if err != nil {
		return err
	}
	c, err := controllers.New(controllers.Config{
		Client: server.Client, Metadata: meta, Discovery: disc, Informers: server.Informers,
		ClusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"),
		Objects: objectfeed.New(server.Etcd.Client().Client, ""), GarbageDelay: time.Nanosecond,
		RootCA: server.CA, ServiceAccountKey: server.PKI.ServiceAccountKey,
		SigningCert: server.PKI.CA.Cert, SigningKey: server.PKI.CA.Key,
	})
	if err != nil {
		return err
	}
	s, err := scheduler.New(scheduler.Config{Client: server.Client, Informers: server.Informers})
	if err != nil {
		return err
	}
	go func() { done <- c.Run(ctx) }()
	go func() { done <- s.Run(ctx) }()
	return nil
}

func eventually(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Fatalf("never: %s: %v", what, err)
}

func namespace(t *testing.T) (string, kubernetes.Interface) {
	t.Helper()
	ns, err := server.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Name, server.Client
}

func machine(t *testing.T, name string) {
	t.Helper()
	api := server.Client.CoreV1().Nodes()
	n, err := api.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test": name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")},
		Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}},
	}
	eventually(t, "node status", func() error {
		latest, err := api.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		latest.Status = n.Status
		_, err = api.UpdateStatus(t.Context(), latest, metav1.UpdateOptions{})
		return err
	})
	go heartbeat(t.Context(), name)
	t.Cleanup(func() { _ = api.Delete(context.Background(), name, metav1.DeleteOptions{}) })
}

// heartbeat keeps a node's lease new, as its kubelet would, until ctx is done: a slow run takes longer than a node may be
// silent.
func heartbeat(ctx context.Context, node string) {
	api := server.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for ctx.Err() == nil {
		now := metav1.NowMicro()
		l, err := api.Get(ctx, node, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			_, _ = api.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &node, RenewTime: &now},
			}, metav1.CreateOptions{})
		case err == nil:
			l.Spec.RenewTime = &now
			_, _ = api.Update(ctx, l, metav1.UpdateOptions{})
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}

func podSpec(node string) corev1.PodSpec {
	return corev1.PodSpec{
		NodeSelector: map[string]string{"test": node},
		Containers: []corev1.Container{{Name: "c", Image: "img", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")},
		}}},
	}
}

func TestANamespaceGetsWhatPodsNeed(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	eventually(t, "service account", func() error {
		_, err := client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	eventually(t, "root CA", func() error {
		cm, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && cm.Data["ca.crt"] != string(server.CA) {
			return fmt.Errorf("data: %v", cm.Data)
		}
		return err
	})
	if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "root CA again", func() error {
		_, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
}

func TestANodeGetsARangeAndPods(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	machine(t, "node-a")
	eventually(t, "pod CIDR, no taint", func() error {
		n, err := client.CoreV1().Nodes().Get(t.Context(), "node-a", metav1.GetOptions{})
		if err == nil && (n.Spec.PodCIDR == "" || len(n.Spec.Taints) > 0) {
			return fmt.Errorf("spec: %+v", n.Spec)
		}
		return err
	})
	eventually(t, "pod created", func() error {
		_, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: podSpec("node-a")}, metav1.CreateOptions{})
		return err
	})
	start := time.Now()
	eventually(t, "pod bound", func() error {
		p, err := client.CoreV1().Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
		if err == nil && p.Spec.NodeName != "node-a" {
			return fmt.Errorf("status: %+v", p.Status)
		}
		return err
	})
	t.Logf("bound within %v", time.Since(start))
	eventually(t, "Scheduled event", func() error {
		events, err := client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "Scheduled" && e.Message == "Successfully assigned "+ns+"/p to node-a" {
				return nil
			}
		}
		return fmt.Errorf("events: %+v", events.Items)
	})
	_, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "nowhere"}, Spec: podSpec("no-such-node")}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "unschedulable", func() error {
		p, err := client.CoreV1().Pods(ns).Get(t.Context(), "nowhere", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				return nil
			}
		}
		return fmt.Errorf("status: %+v", p.Status)
	})
}

func deployment(t *testing.T, ns string, replicas int32) *appsv1.Deployment {
	t.Helper()
	labels := map[string]string{"app": "web"}
	d, err := server.Client.AppsV1().Deployments(ns).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec("none")},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "pods", func() error { return counts(t, ns, 1, int(replicas)) })
	return d
}

func counts(t *testing.T, ns string, sets, pods int) error {
	t.Helper()
	rs, err := server.Client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	p, err := server.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	if len(rs.Items) != sets || len(p.Items) != pods {
		return fmt.Errorf("%d replica sets, %d pods; want %d, %d", len(rs.Items), len(p.Items), sets, pods)
	}
	return nil
}

func TestDeletionOfADeployment(t *testing.T) {
	t.Parallel()
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			ns, client := namespace(t)
			deployment(t, ns, 3)
			if err := client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "everything gone", func() error { return counts(t, ns, 0, 0) })
			eventually(t, "the deployment gone", func() error {
				_, err := client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
				if !apierrors.IsNotFound(err) {
					return fmt.Errorf("still there: %w", err)
				}
				return nil
			})
		})
	}
	t.Run("Orphan", func(t *testing.T) {
		t.Parallel()
		ns, client := namespace(t)
		deployment(t, ns, 2)
		policy := metav1.DeletePropagationOrphan
		if err := client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the replica set has no owner", func() error {
			if _, err := client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the deployment is still there: %w", err)
			}
			rs, err := client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			if len(rs.Items) != 1 || len(rs.Items[0].OwnerReferences) != 0 {
				return fmt.Errorf("replica sets: %+v", rs.Items)
			}
			return nil
		})
		if err := counts(t, ns, 1, 2); err != nil {
			t.Error(err)
		}
	})
}

func TestOwnersThatNeverWere(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	cm := func(name string, refs ...metav1.OwnerReference) {
		t.Helper()
		_, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	cm("root")
	root, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "root", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	real := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "root", UID: root.UID}
	fake := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "root", UID: "00000000-0000-0000-0000-000000000000"}
	cm("kept", real)
	cm("garbage", fake)
	cm("half", real, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "00000000-0000-0000-0000-000000000001"})
	eventually(t, "garbage is gone", func() error {
		if _, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "garbage", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	eventually(t, "half keeps one owner", func() error {
		m, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "half", metav1.GetOptions{})
		if err == nil && len(m.OwnerReferences) != 1 {
			return fmt.Errorf("owners: %v", m.OwnerReferences)
		}
		return err
	})
	if _, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestNamespaceDeletion(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	deployment(t, ns, 3)
	held, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "conditions say what remains", func() error {
		n, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				if want := "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"; c.Message != want {
					return fmt.Errorf("message %q, want %q", c.Message, want)
				}
				return nil
			}
		}
		return fmt.Errorf("conditions: %+v", n.Status.Conditions)
	})
	held.Finalizers = nil
	if _, err := client.CoreV1().ConfigMaps(ns).Patch(t.Context(), "held", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "namespace gone", func() error {
		if _, err := client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	t.Logf("gone after %v", time.Since(start))
}

func TestQuota(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	hard := corev1.ResourceList{"pods": resource.MustParse("2"), "requests.cpu": resource.MustParse("1"), "configmaps": resource.MustParse("10"), "count/deployments.apps": resource.MustParse("1")}
	if _, err := client.CoreV1().ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	used := func(pods, cpu, maps, deployments string) func() error {
		return func() error {
			q, err := client.CoreV1().ResourceQuotas(ns).Get(t.Context(), "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			for name, want := range map[corev1.ResourceName]string{"pods": pods, "requests.cpu": cpu, "configmaps": maps, "count/deployments.apps": deployments} {
				if got := q.Status.Used[name]; got.Cmp(resource.MustParse(want)) != 0 || len(q.Status.Hard) != 4 {
					return fmt.Errorf("%s: %s, want %s (%v)", name, got.String(), want, q.Status)
				}
			}
			return nil
		}
	}
	eventually(t, "counted at first", used("0", "0", "1", "0")) // kube-root-ca.crt
	deployment(t, ns, 2)
	eventually(t, "counted by admission", used("2", "200m", "1", "1"))
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "third"}, Spec: podSpec("none")}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a third pod: %v, want Forbidden", err)
	}
	if err := client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "given back", used("0", "0", "1", "0"))
}

func TestDisruptionBudget(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	deployment(t, ns, 3)
	half := intstr.FromString("50%")
	if _, err := client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &half, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	allowed := func(healthy, allowed int32) func() error {
		return func() error {
			b, err := client.PolicyV1().PodDisruptionBudgets(ns).Get(t.Context(), "b", metav1.GetOptions{})
			if err == nil && (b.Status.ExpectedPods != 3 || b.Status.DesiredHealthy != 2 || b.Status.CurrentHealthy != healthy || b.Status.DisruptionsAllowed != allowed) {
				return fmt.Errorf("status: %+v", b.Status)
			}
			return err
		}
	}
	eventually(t, "none healthy", allowed(0, 0))
	pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		_, err := client.CoreV1().Pods(ns).Patch(t.Context(), pods.Items[i].Name, types.StrategicMergePatchType, []byte(`{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`), metav1.PatchOptions{}, "status")
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all healthy", allowed(3, 1))
	evict := func(name string) error {
		return client.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}})
	}
	if err := evict(pods.Items[0].Name); err != nil {
		t.Fatal(err)
	}
	if err := evict(pods.Items[1].Name); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a second eviction: %v, want TooManyRequests", err)
	}
}

func TestTokenSecret(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	eventually(t, "service account", func() error {
		_, err := client.CoreV1().ServiceAccounts(ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	if _, err := client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"}},
		Type:       corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var token string
	eventually(t, "a token", func() error {
		s, err := client.CoreV1().Secrets(ns).Get(t.Context(), "s", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if token = string(s.Data["token"]); token == "" || string(s.Data["ca.crt"]) != string(server.CA) || string(s.Data["namespace"]) != ns {
			return fmt.Errorf("data: %v", s.Data)
		}
		return nil
	})
	review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil || review.Status.User.Username != "system:serviceaccount:"+ns+":default" {
		t.Errorf("review: %+v, %v", review.Status, err)
	}
	if err := client.CoreV1().ServiceAccounts(ns).Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the secret goes with its account", func() error {
		if _, err := client.CoreV1().Secrets(ns).Get(t.Context(), "s", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
}

func TestBootstrapTokenExpires(t *testing.T) {
	t.Parallel()
	make := func(id string, after time.Duration) {
		t.Helper()
		_, err := server.Client.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: "bootstrap.kubernetes.io/token",
			StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "expiration": time.Now().Add(after).UTC().Format(time.RFC3339)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = server.Client.CoreV1().Secrets("kube-system").Delete(context.Background(), "bootstrap-token-"+id, metav1.DeleteOptions{})
		})
	}
	make("aaaaaa", time.Second)
	make("bbbbbb", time.Hour)
	eventually(t, "expired", func() error {
		if _, err := server.Client.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-aaaaaa", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	if _, err := server.Client.CoreV1().Secrets("kube-system").Get(t.Context(), "bootstrap-token-bbbbbb", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	machine(t, "node-v")
	core := client.CoreV1()
	wait := storagev1.VolumeBindingWaitForFirstConsumer
	class := "local-" + ns
	if _, err := client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &wait,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	volume := func(name, class string) {
		t.Helper()
		_, err := core.PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: corev1.ResourceList{"storage": resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				StorageClassName: class, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp/x"}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = core.PersistentVolumes().Delete(context.Background(), name, metav1.DeleteOptions{}) })
	}
	claim := func(name, class string) {
		t.Helper()
		_, err := core.PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	phase := func(name string, want corev1.PersistentVolumeClaimPhase) func() error {
		return func() error {
			c, err := core.PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && c.Status.Phase != want {
				return fmt.Errorf("claim: %+v %+v", c.Spec, c.Status)
			}
			return err
		}
	}
	volumePhase := func(name string, want corev1.PersistentVolumePhase) func() error {
		return func() error {
			v, err := core.PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && v.Status.Phase != want {
				return fmt.Errorf("volume: %+v", v.Status)
			}
			return err
		}
	}
	static := "static-" + ns
	claim("now", static)
	eventually(t, "pending", phase("now", corev1.ClaimPending))
	volume("v1-"+ns, static)
	eventually(t, "bound", phase("now", corev1.ClaimBound))
	eventually(t, "volume bound", volumePhase("v1-"+ns, corev1.VolumeBound))

	volume("v2-"+ns, class)
	claim("later", class)
	eventually(t, "waits for a pod", phase("later", corev1.ClaimPending))
	spec := podSpec("node-v")
	spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "later"}}}}
	eventually(t, "pod created", func() error {
		_, err := core.Pods(ns).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, metav1.CreateOptions{})
		return err
	})
	eventually(t, "bound for the pod", phase("later", corev1.ClaimBound))
	eventually(t, "pod bound", func() error {
		p, err := core.Pods(ns).Get(t.Context(), "p", metav1.GetOptions{})
		if err == nil && p.Spec.NodeName == "" {
			return fmt.Errorf("status: %+v", p.Status)
		}
		return err
	})

	if err := core.PersistentVolumeClaims(ns).Delete(t.Context(), "later", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	if _, err := core.PersistentVolumeClaims(ns).Get(t.Context(), "later", metav1.GetOptions{}); err != nil {
		t.Errorf("a claim in use is gone: %v", err)
	}
	now := int64(0)
	if err := core.Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "claim gone, volume released", volumePhase("v2-"+ns, corev1.VolumeReleased))
}

func TestAdmissionPolicyIsTypeChecked(t *testing.T) {
	t.Parallel()
	api := server.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies()
	_, err := api.Create(t.Context(), &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "typed"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionregistrationv1.RuleWithOperations{
					Operations: []admissionregistrationv1.OperationType{"CREATE"},
					Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
				},
			}}},
			Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.replicas > '1'"}, {Expression: "object.spec.replicas > 1"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), "typed", metav1.DeleteOptions{}) })
	eventually(t, "one warning", func() error {
		p, err := api.Get(t.Context(), "typed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if tc := p.Status.TypeChecking; tc == nil || len(tc.ExpressionWarnings) != 1 || tc.ExpressionWarnings[0].FieldRef != "spec.validations[0].expression" {
			return fmt.Errorf("status: %+v", p.Status)
		}
		return nil
	})
}

// The three own each other: the deletion of one in the foreground must not wait for ever.
func TestACircleOfOwners(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	api := client.CoreV1().ConfigMaps(ns)
	uids := map[string]types.UID{}
	for _, name := range []string{"a", "b", "c"} {
		m, err := api.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		uids[name] = m.UID
	}
	for of, owner := range map[string]string{"a": "c", "b": "a", "c": "b"} {
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner, uids[owner])
		if _, err := api.Patch(t.Context(), of, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	foreground := metav1.DeletePropagationForeground
	if err := api.Delete(t.Context(), "a", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all gone", func() error {
		for name := range uids {
			if m, err := api.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s: %v %w", name, m.ObjectMeta, err)
			}
		}
		return nil
	})
}

func TestCustomResourcesAreCollected(t *testing.T) {
	t.Parallel()
	ns, client := namespace(t)
	ext, err := apiextensions.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	_, err = ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "toys.gc.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "gc.example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "toys", Singular: "toy", Kind: "Toy", ListKind: "ToyList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &yes}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ext.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), "toys.gc.example.com", metav1.DeleteOptions{})
	})
	owner, err := client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	toys := dyn.Resource(schema.GroupVersionResource{Group: "gc.example.com", Version: "v1", Resource: "toys"}).Namespace(ns)
	toy := func(name string, owners ...any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "gc.example.com/v1", "kind": "Toy", "metadata": map[string]any{"name": name, "ownerReferences": owners},
		}}
	}
	eventually(t, "a toy with an owner", func() error {
		_, err := toys.Create(t.Context(), toy("t", map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": string(owner.UID)}), metav1.CreateOptions{})
		return err
	})
	parent, err := toys.Create(t.Context(), toy("parent"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "child", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "gc.example.com/v1", Kind: "Toy", Name: "parent", UID: parent.GetUID()},
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the toy goes with its owner", func() error {
		if _, err := toys.Get(t.Context(), "t", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
	if _, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "child", metav1.GetOptions{}); err != nil {
		t.Fatalf("the child of a toy that exists: %v", err)
	}
	if err := toys.Delete(t.Context(), "parent", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child goes with its toy", func() error {
		if _, err := client.CoreV1().ConfigMaps(ns).Get(t.Context(), "child", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %w", err)
		}
		return nil
	})
}
