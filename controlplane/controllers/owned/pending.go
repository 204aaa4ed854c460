package owned

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// pendingTimeout is how long a write may stay invisible in the cache before it no longer holds its owner back. Only a
// pod that came and went between two looks can need it.
const pendingTimeout = 30 * time.Second

// Pending remembers, by owner, the pods that were created or deleted but whose change the cache doesn't show yet. While
// there are any, counting the cached pods would give a wrong number, and the owner must not create or delete more.
// Nothing is counted here: the cache is asked, so lost or doubled events can't put it out of step.
type Pending struct {
	mu     sync.Mutex
	owners map[types.UID]map[types.UID]pendingWrite
}

type pendingWrite struct {
	key     types.NamespacedName
	created bool
	since   time.Time
}

// NewPending returns an empty memory.
func NewPending() *Pending {
	return &Pending{owners: map[types.UID]map[types.UID]pendingWrite{}}
}

// Created notes a pod that the API server has just returned from its creation.
func (p *Pending) Created(owner, pod types.UID, key types.NamespacedName) {
	p.note(owner, pod, key, true)
}

// Deleted notes a pod whose deletion was asked for.
func (p *Pending) Deleted(owner, pod types.UID, key types.NamespacedName) {
	p.note(owner, pod, key, false)
}

func (p *Pending) note(owner, pod types.UID, key types.NamespacedName, created bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.owners[owner]
	if m == nil {
		m = map[types.UID]pendingWrite{}
		p.owners[owner] = m
	}
	m[pod] = pendingWrite{key: key, created: created, since: time.Now()}
}

// Gone notes that the cache has dropped a pod.
func (p *Pending) Gone(pod types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for owner, m := range p.owners {
		if _, ok := m[pod]; ok {
			delete(m, pod)
			if len(m) == 0 {
				delete(p.owners, owner)
			}
			return
		}
	}
}

// Forget drops what is known of an owner that was deleted.
func (p *Pending) Forget(owner types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.owners, owner)
}

// Sight is what the cache shows of a pod.
type Sight struct {
	UID      types.UID // empty: no pod of that name
	Deleting bool
}

// Settled says whether the cache shows all the writes made for an owner. If not, retry is the time after which the
// oldest of them gives up waiting; the event that brings the news comes earlier as a rule.
func (p *Pending) Settled(owner types.UID, look func(types.NamespacedName) Sight) (ok bool, retry time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.owners[owner]
	for uid, w := range m {
		s := look(w.key)
		left := pendingTimeout - time.Since(w.since)
		switch {
		case w.created && s.UID == uid, !w.created && (s.UID != uid || s.Deleting), left <= 0:
			delete(m, uid)
		case retry == 0 || left < retry:
			retry = left
		}
	}
	if len(m) == 0 {
		delete(p.owners, owner)
		return true, 0
	}
	return false, retry
}
