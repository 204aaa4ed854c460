package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// ServiceAPI lists and watches services.
type ServiceAPI interface {
	ListServices(ctx context.Context, o metav1.ListOptions) (*corev1.ServiceList, error)
	WatchServices(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// Services holds what environments need of the cluster's services: names, addresses, ports.
type Services struct {
	api    ServiceAPI
	synced chan struct{}
	once   sync.Once

	mu   sync.Mutex
	byNS map[string]map[string]*corev1.Service
}

// NewServices returns the services of api; nil means that there are none (a standalone node).
func NewServices(api ServiceAPI) *Services {
	s := &Services{api: api, synced: make(chan struct{}), byNS: map[string]map[string]*corev1.Service{}}
	if api == nil {
		close(s.synced)
	}
	return s
}

// Run watches until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	if s.api == nil {
		<-ctx.Done()
		return nil
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return s.api.ListServices(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return s.api.WatchServices(ctx, o)
		},
	}
	cache.NewReflectorWithOptions(lw, &corev1.Service{}, (*serviceStore)(s), cache.ReflectorOptions{Name: "services"}).RunWithContext(ctx)
	return nil
}

// ErrNoServices means that the API server has not been heard of since the start.
var ErrNoServices = errors.New("services have not yet been read at least once, cannot construct envvars")

// offline is how long a container's start waits for the first list. A node that boots without its API server starts its
// pods all the same: those that find services by name miss nothing, those that want the variables get none.
const offline = 5 * time.Second

// Services returns those of a namespace, and default/kubernetes. It waits for the first list, but not for ever.
func (s *Services) Services(ctx context.Context, namespace string) ([]*corev1.Service, error) {
	select {
	case <-s.synced:
	case <-time.After(offline):
	case <-ctx.Done():
		return nil, ErrNoServices
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*corev1.Service
	for _, svc := range s.byNS[namespace] {
		out = append(out, svc)
	}
	if master := s.byNS["default"]["kubernetes"]; master != nil && namespace != "default" {
		out = append(out, master)
	}
	return out, nil
}

type serviceStore Services

var (
	_ cache.ReflectorStore    = (*serviceStore)(nil)
	_ cache.TransformingStore = (*serviceStore)(nil)
)

// Transformer keeps names, address and ports.
func (s *serviceStore) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		svc, ok := obj.(*corev1.Service)
		if !ok {
			return obj, nil
		}
		small := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace, ResourceVersion: svc.ResourceVersion},
			Spec:       corev1.ServiceSpec{ClusterIP: svc.Spec.ClusterIP},
		}
		for _, p := range svc.Spec.Ports {
			small.Spec.Ports = append(small.Spec.Ports, corev1.ServicePort{Name: p.Name, Port: p.Port, Protocol: p.Protocol})
		}
		return small, nil
	}
}

func (s *serviceStore) put(svc *corev1.Service) {
	ns := s.byNS[svc.Namespace]
	if ns == nil {
		ns = map[string]*corev1.Service{}
		s.byNS[svc.Namespace] = ns
	}
	ns[svc.Name] = svc
}

func (s *serviceStore) Add(obj any) error { return s.Update(obj) }

func (s *serviceStore) Update(obj any) error {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return fmt.Errorf("a %T among the services", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(svc)
	return nil
}

func (s *serviceStore) Delete(obj any) error {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return fmt.Errorf("a %T among the services", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ns := s.byNS[svc.Namespace]; ns != nil {
		if delete(ns, svc.Name); len(ns) == 0 {
			delete(s.byNS, svc.Namespace)
		}
	}
	return nil
}

func (s *serviceStore) Replace(list []any, _ string) error {
	s.mu.Lock()
	clear(s.byNS)
	for _, obj := range list {
		if svc, ok := obj.(*corev1.Service); ok {
			s.put(svc)
		}
	}
	s.mu.Unlock()
	s.once.Do(func() { close(s.synced) })
	return nil
}

func (s *serviceStore) Resync() error { return nil }
