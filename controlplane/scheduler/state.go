package scheduler

import (
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/controlplane/scheduler/fit"
)

// state is the nodes with their pods: those that the API says are there, and those assumed to be because their binding
// is on its way. Decisions are taken under its lock; they take microseconds, and no copy has to be made.
type state struct {
	mu        sync.Mutex
	nodes     map[string]*fit.Node
	order     []*fit.Node // those whose object is known, by name; rebuilt when a node comes or goes
	pods      map[types.UID]*placed
	nominated map[types.UID]nomination
}

type placed struct {
	pod     *fit.Pod
	node    string
	assumed bool
}

// nomination is a pod that waits for the victims of its preemption to leave a node.
type nomination struct {
	pod  *fit.Pod
	node string
}

func newState() *state {
	return &state{nodes: map[string]*fit.Node{}, pods: map[types.UID]*placed{}, nominated: map[types.UID]nomination{}}
}

func (s *state) setNode(n *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.node(n.Name)
	isNew := known.Node == nil
	known.SetNode(n)
	if isNew {
		s.reorder()
	}
}

// removeNode keeps the entry while pods are on it: their deletion comes later.
func (s *state) removeNode(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.nodes[name]; n != nil {
		n.SetNode(nil)
		s.dropIfEmpty(name)
		s.reorder()
	}
}

func (s *state) node(name string) *fit.Node {
	n := s.nodes[name]
	if n == nil {
		n = &fit.Node{}
		s.nodes[name] = n
	}
	return n
}

func (s *state) dropIfEmpty(name string) {
	if n := s.nodes[name]; n != nil && n.Node == nil && len(n.Pods) == 0 {
		delete(s.nodes, name)
	}
}

func (s *state) reorder() {
	s.order = nil
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		if n := s.nodes[name]; n.Node != nil {
			s.order = append(s.order, n)
		}
	}
}

// setPod records an assigned pod as the API has it.
func (s *state) setPod(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(fit.NewPod(p), p.Spec.NodeName, false)
}

// assume records that a pod's binding is on its way. The lock is held.
func (s *state) assume(p *fit.Pod, node string) { s.put(p, node, true) }

func (s *state) put(p *fit.Pod, node string, assumed bool) {
	s.take(p.UID)
	s.pods[p.UID] = &placed{pod: p, node: node, assumed: assumed}
	s.node(node).Add(p)
	delete(s.nominated, p.UID)
}

func (s *state) take(uid types.UID) {
	if old := s.pods[uid]; old != nil {
		delete(s.pods, uid)
		s.nodes[old.node].Remove(uid)
		s.dropIfEmpty(old.node)
	}
}

// removePod forgets a pod that is gone or over, and says whether it was on a node.
func (s *state) removePod(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, was := s.pods[uid]
	s.take(uid)
	delete(s.nominated, uid)
	return was
}

// forget takes back an assumption. A pod that the API has since confirmed stays.
func (s *state) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pods[uid]; p != nil && p.assumed {
		s.take(uid)
	}
}

// assumed says whether a pod's binding is on its way.
func (s *state) isAssumed(uid types.UID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pods[uid]
	return p != nil && p.assumed
}

// nominate reserves a place for a pod whose victims are leaving; an empty node takes the reservation back.
func (s *state) nominate(p *fit.Pod, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if node == "" {
		delete(s.nominated, p.UID)
		return
	}
	s.nominated[p.UID] = nomination{pod: p, node: node}
}

// nominatedTo lists the pods at least as important as p that wait for a place on a node. The lock is held.
func (s *state) nominatedTo(node string, p *fit.Pod) []*fit.Pod {
	var out []*fit.Pod
	for uid, n := range s.nominated {
		if n.node == node && uid != p.UID && n.pod.Priority >= p.Priority {
			out = append(out, n.pod)
		}
	}
	return out
}

// outrank takes back the nominations of less important pods to a node that a preemption has just won.
func (s *state) outrank(pod *fit.Pod, node string) []*fit.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*fit.Pod
	for uid, n := range s.nominated {
		if n.node == node && n.pod.Priority < pod.Priority {
			out = append(out, n.pod)
			delete(s.nominated, uid)
		}
	}
	return out
}

// refresh keeps the newest object of a pod whose place and requests are as they were, so that the old one is freed.
func (s *state) refresh(p *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.pods[p.UID]; old != nil && !old.assumed {
		old.pod.Pod = p
		return
	}
	s.put(fit.NewPod(p), p.Spec.NodeName, false)
}
