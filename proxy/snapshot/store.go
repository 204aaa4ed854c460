package snapshot

import (
	"maps"
	"net/netip"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Store is the snapshot. It is safe for concurrent use; the values it hands out are shared and must not be changed.
type Store struct {
	node string

	mu       sync.RWMutex
	services map[Name]*Service
	slices   map[Name]*Slice                  // by the slice's own name
	members  map[Name]map[Name]*Slice         // by service, then by the slice's own name
	byIP     map[netip.Addr]map[Name]struct{} // cluster IP → services, for reverse lookups
	zone     string                           // of this node
	pending  map[string]struct{}              // kinds whose first list has not arrived
	ready    chan struct{}                    // closed when isReady
	isReady  bool
	onChange []func(services []Name) // called outside of the lock
}

// NewStore returns an empty snapshot as seen from the named node.
func NewStore(node string) *Store {
	return &Store{
		node:     node,
		services: map[Name]*Service{},
		slices:   map[Name]*Slice{},
		members:  map[Name]map[Name]*Slice{},
		byIP:     map[netip.Addr]map[Name]struct{}{},
		pending:  map[string]struct{}{"services": {}, "endpointslices": {}, "node": {}},
		ready:    make(chan struct{}),
	}
}

// OnChange registers f to be told which services changed; none means that this node's zone did. f must be quick, and must
// look at the store afresh: it may be told more often than things change. Register before anything is stored.
func (s *Store) OnChange(f func(services []Name)) { s.onChange = append(s.onChange, f) }

// Ready is closed once every kind has been listed, or a checkpoint was loaded.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Service returns a Service, or nil.
func (s *Store) Service(n Name) *Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.services[n]
}

// Slices returns the slices of a Service, in no particular order.
func (s *Store) Slices(n Name) []*Slice {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*Slice, 0, len(s.members[n]))
	for _, sl := range s.members[n] {
		out = append(out, sl)
	}
	return out
}

// Names returns the name of every Service.
func (s *Store) Names() []Name {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Name, 0, len(s.services))
	for n := range s.services {
		out = append(out, n)
	}
	return out
}

// HasNamespace reports whether the namespace has a Service.
func (s *Store) HasNamespace(ns string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for n := range s.services {
		if n.Namespace == ns {
			return true
		}
	}
	return false
}

// ByClusterIP returns the services that have the cluster IP: one, unless an address is just changing hands.
func (s *Store) ByClusterIP(addr netip.Addr) []*Service {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*Service
	for n := range s.byIP[addr] {
		out = append(out, s.services[n])
	}
	return out
}

// EachSlice calls f for every slice until f returns false. f must not call the store.
func (s *Store) EachSlice(f func(*Slice) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sl := range s.slices {
		if !f(sl) {
			return
		}
	}
}

// Zone returns this node's zone, "" if it has none.
func (s *Store) Zone() string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.zone
}

func (s *Store) notify(services []Name) {
	if len(services) == 0 {
		return
	}
	for _, f := range s.onChange {
		f(services)
	}
}

// SetService adds or replaces a Service.
func (s *Store) SetService(obj *corev1.Service) {
	v := convertService(obj)
	s.mu.Lock()
	changed := s.putService(v)
	s.mu.Unlock()
	if changed {
		s.notify([]Name{v.Name})
	}
}

func (s *Store) putService(v *Service) bool {
	old := s.services[v.Name]
	if old != nil && reflect.DeepEqual(old, v) {
		return false // only something changed that nobody here reads
	}
	s.unindex(old)
	s.services[v.Name] = v
	for _, ip := range v.ClusterIPs {
		if s.byIP[ip] == nil {
			s.byIP[ip] = map[Name]struct{}{}
		}
		s.byIP[ip][v.Name] = struct{}{}
	}
	return true
}

func (s *Store) unindex(v *Service) {
	if v == nil {
		return
	}
	for _, ip := range v.ClusterIPs {
		delete(s.byIP[ip], v.Name)
		if len(s.byIP[ip]) == 0 {
			delete(s.byIP, ip)
		}
	}
}

// DeleteService removes a Service.
func (s *Store) DeleteService(n Name) {
	s.mu.Lock()
	old := s.services[n]
	s.unindex(old)
	delete(s.services, n)
	s.mu.Unlock()
	if old != nil {
		s.notify([]Name{n})
	}
}

// ReplaceServices makes list the only Services.
func (s *Store) ReplaceServices(list []*corev1.Service) {
	var changed []Name
	s.mu.Lock()
	gone := maps.Clone(s.services)
	for _, obj := range list {
		v := convertService(obj)
		delete(gone, v.Name)
		if s.putService(v) {
			changed = append(changed, v.Name)
		}
	}
	for n, v := range gone {
		s.unindex(v)
		delete(s.services, n)
		changed = append(changed, n)
	}
	s.listed("services")
	s.mu.Unlock()
	s.notify(changed)
}

// SetSlice adds or replaces an EndpointSlice.
func (s *Store) SetSlice(obj *discoveryv1.EndpointSlice) {
	v := convertSlice(obj, s.node)
	s.mu.Lock()
	changed := s.putSlice(Name{obj.Namespace, obj.Name}, v)
	s.mu.Unlock()
	s.notify(changed)
}

// putSlice returns the services that gained or lost by it. v is nil to remove.
func (s *Store) putSlice(own Name, v *Slice) []Name {
	old := s.slices[own]
	if old == nil && v == nil || old != nil && v != nil && reflect.DeepEqual(old, v) {
		return nil
	}
	var changed []Name
	if old != nil {
		delete(s.slices, own)
		delete(s.members[old.Service], own)
		if len(s.members[old.Service]) == 0 {
			delete(s.members, old.Service)
		}
		changed = append(changed, old.Service)
	}
	if v != nil {
		s.slices[own] = v
		if s.members[v.Service] == nil {
			s.members[v.Service] = map[Name]*Slice{}
		}
		s.members[v.Service][own] = v
		if old == nil || old.Service != v.Service {
			changed = append(changed, v.Service)
		}
	}
	return changed
}

// DeleteSlice removes an EndpointSlice.
func (s *Store) DeleteSlice(own Name) {
	s.mu.Lock()
	changed := s.putSlice(own, nil)
	s.mu.Unlock()
	s.notify(changed)
}

// ReplaceSlices makes list the only EndpointSlices.
func (s *Store) ReplaceSlices(list []*discoveryv1.EndpointSlice) {
	var changed []Name
	s.mu.Lock()
	gone := maps.Clone(s.slices)
	for _, obj := range list {
		own := Name{obj.Namespace, obj.Name}
		delete(gone, own)
		changed = append(changed, s.putSlice(own, convertSlice(obj, s.node))...)
	}
	for own := range gone {
		changed = append(changed, s.putSlice(own, nil)...)
	}
	s.listed("endpointslices")
	s.mu.Unlock()
	s.notify(changed)
}

// SetZone takes note of this node's zone; "" is none.
func (s *Store) SetZone(zone string) {
	s.mu.Lock()
	changed := s.zone != zone
	s.zone = zone
	s.listed("node")
	s.mu.Unlock()
	if !changed {
		return
	}
	for _, f := range s.onChange {
		f(nil)
	}
}

func (s *Store) listed(kind string) {
	delete(s.pending, kind)
	if len(s.pending) == 0 {
		s.becomeReady()
	}
}

func (s *Store) becomeReady() {
	if !s.isReady {
		s.isReady = true
		close(s.ready)
	}
}
