package volume

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// TrustAPI reads ClusterTrustBundles. The options are a reflector's, to be passed on as they are.
type TrustAPI interface {
	ListTrustBundles(ctx context.Context, o metav1.ListOptions) (*certificatesv1.ClusterTrustBundleList, error)
	WatchTrustBundles(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// trust holds the cluster's trust bundles while some pod of this node shows one: a single watch for all of them.
type trust struct {
	api    TrustAPI
	notify func([]types.UID)

	mu      sync.Mutex
	users   map[types.UID]bool
	stop    context.CancelFunc
	synced  chan struct{}
	bundles map[string]bundle
}

// bundle is what is kept of a ClusterTrustBundle: its certificates in DER.
type bundle struct {
	signer string
	labels labels.Set
	certs  []string
}

// use notes whether a pod shows bundles; the watch lives while any does.
func (t *trust) use(pod types.UID, uses bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !uses {
		delete(t.users, pod)
		if len(t.users) == 0 && t.stop != nil {
			t.stop()
			t.stop, t.bundles = nil, nil
		}
		return
	}
	if t.users == nil {
		t.users = map[types.UID]bool{}
	}
	t.users[pod] = true
	if t.stop != nil || t.api == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.stop, t.synced, t.bundles = cancel, make(chan struct{}), map[string]bundle{}
	r := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return t.api.ListTrustBundles(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return t.api.WatchTrustBundles(ctx, o)
		},
	}, &certificatesv1.ClusterTrustBundle{}, &trustStore{trust: t, ctx: ctx, synced: t.synced}, cache.ReflectorOptions{Name: "volume/clustertrustbundles"})
	go r.RunWithContext(ctx)
}

func (t *trust) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop != nil {
		t.stop()
		t.stop = nil
	}
}

var errNoBundles = errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")

// anchors are the certificates that a source selects, each once, as PEM.
func (t *trust) anchors(ctx context.Context, s *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	if t.api == nil {
		return nil, fmt.Errorf("ClusterTrustBundle: %w", errNoAPI)
	}
	t.mu.Lock()
	synced := t.synced
	t.mu.Unlock()
	select {
	case <-synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for ClusterTrustBundles: %w", ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	certs, err := selectBundles(t.bundles, s)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, der := range certs {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// selectBundles applies a source to the bundles there are. Pure.
func selectBundles(bundles map[string]bundle, s *corev1.ClusterTrustBundleProjection) ([]string, error) {
	found := map[string]bool{}
	matched := false
	if s.Name != nil {
		b, ok := bundles[*s.Name]
		if !ok && !isTrue(s.Optional) {
			return nil, apierrors.NewNotFound(certificatesv1.Resource("clustertrustbundle"), *s.Name)
		}
		for _, c := range b.certs {
			found[c] = true
		}
		return slices.Sorted(maps.Keys(found)), nil
	}
	if s.SignerName == nil {
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector) // nil selects nothing, an empty one everything
	if err != nil {
		return nil, fmt.Errorf("label selector: %w", err)
	}
	for _, b := range bundles {
		if b.signer != *s.SignerName || !selector.Matches(b.labels) {
			continue
		}
		matched = true
		for _, c := range b.certs {
			found[c] = true
		}
	}
	if !matched && !isTrue(s.Optional) {
		return nil, errNoBundles
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// trustStore takes what the reflector brings.
type trustStore struct {
	*trust
	ctx    context.Context // of this watch: a late message of an earlier one is dropped
	synced chan struct{}
}

var _ cache.ReflectorStore = (*trustStore)(nil)

func (s *trustStore) change(f func(map[string]bundle)) error {
	s.mu.Lock()
	if s.ctx.Err() != nil || s.bundles == nil {
		s.mu.Unlock()
		return nil
	}
	f(s.bundles)
	users := slices.Collect(maps.Keys(s.users))
	s.mu.Unlock()
	s.notify(users)
	return nil
}

// Add implements cache.ReflectorStore.
func (s *trustStore) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s *trustStore) Update(obj any) error {
	return s.change(func(m map[string]bundle) { put(m, obj) })
}

// Delete implements cache.ReflectorStore.
func (s *trustStore) Delete(obj any) error {
	return s.change(func(m map[string]bundle) {
		if b, ok := obj.(*certificatesv1.ClusterTrustBundle); ok {
			delete(m, b.Name)
		}
	})
}

// Replace implements cache.ReflectorStore.
func (s *trustStore) Replace(list []any, _ string) error {
	err := s.change(func(m map[string]bundle) {
		clear(m)
		for _, obj := range list {
			put(m, obj)
		}
	})
	select {
	case <-s.synced:
	default:
		close(s.synced)
	}
	return err
}

// Resync implements cache.ReflectorStore.
func (s *trustStore) Resync() error { return nil }

func put(m map[string]bundle, obj any) {
	o, ok := obj.(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return
	}
	b := bundle{signer: o.Spec.SignerName, labels: o.Labels}
	for rest := []byte(o.Spec.TrustBundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			b.certs = append(b.certs, string(block.Bytes))
		}
	}
	m[o.Name] = b
}

// showsTrust tells whether a pod has a volume that shows trust bundles.
func showsTrust(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ClusterTrustBundle != nil })
	})
}
