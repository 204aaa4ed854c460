package gc

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/controllers/deletable"
	"github.com/mote-edge/mote/controlplane/objectfeed"
)

// ignoredKinds and definingKinds are ignored and definesKinds by kind.
var (
	ignoredKinds  = map[schema.GroupKind]bool{{Kind: "Event"}: true, {Group: "events.k8s.io", Kind: "Event"}: true}
	definingKinds = map[schema.GroupKind]bool{
		{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true,
		{Group: "apiregistration.k8s.io", Kind: "APIService"}:             true,
	}
)

// sink puts what the feed reports into the graph.
type sink struct{ *Controller }

var _ objectfeed.Sink = sink{}

func (s sink) Changed(gvk schema.GroupVersionKind, m *metav1.ObjectMeta) {
	gk := gvk.GroupKind()
	if ignoredKinds[gk] {
		return
	}
	s.mu.Lock()
	k := s.fed[gk]
	if k == nil {
		// Discovery hasn't told of it yet: until then its objects can be owners, but not be touched.
		k = &kind{gvk: gvk, namespaced: m.Namespace != "", fed: true}
		s.fed[gk] = k
		s.kinds.AddAfter(struct{}{}, time.Second)
	}
	s.lookAt(s.graph.observe(k, m))
	s.mu.Unlock()
	if definingKinds[gk] {
		s.kinds.AddAfter(struct{}{}, time.Second) // discovery follows a moment later
	}
}

func (s sink) Deleted(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose(uid)
}

func (s sink) Listed(there map[types.UID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, o := range s.graph.objects {
		if o.kind != nil && o.kind.fed && o.seen && !o.gone && !there[uid] {
			s.lose(uid)
		}
	}
}

// lose records that an object is gone; the lock is held.
func (c *Controller) lose(uid types.UID) {
	o := c.graph.objects[uid]
	if o == nil || o.kind == nil {
		return
	}
	if c.cfg.Deleted != nil && o.kind.namespaced && !o.kind.resource.Empty() {
		c.cfg.Deleted(o.kind.resource.GroupResource(), o.namespace.Value())
	}
	if definingKinds[o.kind.gvk.GroupKind()] {
		c.kinds.AddAfter(struct{}{}, time.Second)
	}
	c.lookAt(c.graph.forget(uid))
}

// learn takes over what discovery says about the kinds of the feed; the lock is held. Objects that waited for that are
// looked at.
func (c *Controller) learn(known map[schema.GroupKind]deletable.Kind, complete bool) {
	for gk, k := range c.fed {
		if _, ok := known[gk]; !ok && complete {
			k.resource = schema.GroupVersionResource{} // its definition is gone
		}
	}
	for gk, d := range known {
		k := c.fed[gk]
		if k == nil {
			k = &kind{fed: true}
			c.fed[gk] = k
		}
		fresh := k.resource.Empty()
		k.resource, k.gvk, k.namespaced = d.Resource, d.Resource.GroupVersion().WithKind(d.Kind), d.Namespaced
		if !fresh {
			continue
		}
		for uid, o := range c.graph.objects {
			if o.kind == k && (o.foreground || o.orphan || len(c.graph.doubtful(o)) > 0) {
				c.lookAt([]types.UID{uid})
			}
		}
	}
}

// remote asks which group versions are served by other API servers, whose objects the feed doesn't have.
func (c *Controller) remote(ctx context.Context) (map[schema.GroupVersion]bool, error) {
	if c.cfg.Feed == nil {
		return nil, nil
	}
	data, err := c.cfg.Discovery.RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").SetHeader("Accept", "application/json").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("list API services: %w", err)
	}
	var list struct {
		Items []struct {
			Spec struct {
				Group   string    `json:"group"`
				Version string    `json:"version"`
				Service *struct{} `json:"service"`
			} `json:"spec"`
		} `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("list API services: %w", err)
	}
	out := map[schema.GroupVersion]bool{}
	for _, i := range list.Items {
		if i.Spec.Service != nil {
			out[schema.GroupVersion{Group: i.Spec.Group, Version: i.Spec.Version}] = true
		}
	}
	return out, nil
}
