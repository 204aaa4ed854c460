package gc

import (
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// kind is one kind of objects; all objects of it share one value.
type kind struct {
	resource   schema.GroupVersionResource // empty while discovery hasn't told
	gvk        schema.GroupVersionKind
	namespaced bool
	fed        bool // its objects come from the feed
}

// object is all that the graph keeps of an API object. A cluster's worth of these is small, which is why the objects
// themselves, or their metadata, need not be cached a second time.
type object struct {
	uid        types.UID
	kind       *kind // nil for an owner that was only heard of
	namespace  unique.Handle[string]
	name       string
	owners     []owner
	dependents map[*object]struct{}

	seen       bool // by a watch, or by asking the API
	gone       bool // was deleted, or never was; kept while it has dependents
	deleting   bool
	foreground bool // deleting, and waits for its dependents
	orphan     bool // deleting, and its dependents are to be let go
}

// owner is one owner reference.
type owner struct {
	*object
	ref   *refKind
	name  string
	block bool // the owner's foreground deletion waits for this dependent
}

// refKind is what an owner reference says about its owner's kind; equal ones are shared.
type refKind struct{ apiVersion, kind string }

// graph is who owns whom. It isn't safe for concurrent use. Its methods return the objects that should be looked at.
type graph struct {
	objects map[types.UID]*object
	refs    map[refKind]*refKind
}

func newGraph() *graph {
	return &graph{objects: map[types.UID]*object{}, refs: map[refKind]*refKind{}}
}

// observe records an object that a watch reports as it is now.
func (g *graph) observe(k *kind, m metav1.Object) (look []types.UID) {
	o := g.get(m.GetUID())
	news := !o.seen || o.gone
	o.kind, o.namespace, o.name, o.seen, o.gone = k, unique.Make(m.GetNamespace()), m.GetName(), true, false
	wasForeground := o.foreground
	o.deleting = m.GetDeletionTimestamp() != nil
	o.foreground, o.orphan = false, false
	if o.deleting {
		for _, f := range m.GetFinalizers() {
			o.foreground = o.foreground || f == metav1.FinalizerDeleteDependents
			o.orphan = o.orphan || f == metav1.FinalizerOrphanDependents
		}
	}
	if o.foreground || o.orphan {
		look = append(look, o.uid)
	}
	look = append(look, g.setOwners(o, m.GetOwnerReferences())...)
	if news && len(o.owners) > 0 {
		look = append(look, g.doubtful(o)...)
	}
	if o.foreground && !wasForeground {
		for d := range o.dependents {
			look = append(look, d.uid)
		}
	}
	return look
}

// forget records that an object is gone.
func (g *graph) forget(uid types.UID) (look []types.UID) {
	o := g.objects[uid]
	if o == nil {
		return nil
	}
	look = g.setOwners(o, nil)
	o.seen, o.gone = true, true
	o.deleting, o.foreground, o.orphan = false, false, false
	for d := range o.dependents {
		look = append(look, d.uid)
	}
	g.tidy(o)
	return look
}

// ofKind lists the objects of a kind that are there.
func (g *graph) ofKind(k *kind) []types.UID {
	var out []types.UID
	for uid, o := range g.objects {
		if o.kind == k && !o.gone {
			out = append(out, uid)
		}
	}
	return out
}

func (g *graph) get(uid types.UID) *object {
	o := g.objects[uid]
	if o == nil {
		o = &object{uid: uid}
		g.objects[uid] = o
	}
	return o
}

func (g *graph) refKind(r metav1.OwnerReference) *refKind {
	k := refKind{r.APIVersion, r.Kind}
	if p := g.refs[k]; p != nil {
		return p
	}
	g.refs[k] = &k
	return &k
}

// setOwners links an object to its owners. An owner in foreground deletion that loses it may be able to go on.
func (g *graph) setOwners(o *object, refs []metav1.OwnerReference) (look []types.UID) {
	if sameOwners(o.owners, refs) {
		return nil
	}
	old := o.owners
	o.owners = nil
	for _, r := range refs {
		of := g.get(r.UID)
		if of.dependents == nil {
			of.dependents = map[*object]struct{}{}
		}
		of.dependents[o] = struct{}{}
		o.owners = append(o.owners, owner{object: of, ref: g.refKind(r), name: r.Name, block: r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion})
	}
	for _, was := range old {
		still := false
		for _, now := range o.owners {
			still = still || now.object == was.object
		}
		if !still {
			delete(was.dependents, o)
		}
		if was.foreground {
			look = append(look, was.uid)
		}
		if !still {
			g.tidy(was.object)
		}
	}
	return append(look, g.doubtful(o)...)
}

func sameOwners(a []owner, b []metav1.OwnerReference) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].uid != b[i].UID || a[i].block != (b[i].BlockOwnerDeletion != nil && *b[i].BlockOwnerDeletion) || a[i].name != b[i].Name || a[i].ref.kind != b[i].Kind || a[i].ref.apiVersion != b[i].APIVersion {
			return false
		}
	}
	return true
}

// doubtful returns the object if one of its owners is not known to be there as the reference says.
func (g *graph) doubtful(o *object) []types.UID {
	for i := range o.owners {
		if !o.owners[i].certain(o) || o.owners[i].foreground {
			return []types.UID{o.uid}
		}
	}
	return nil
}

// certain says that an owner exists, and is where and what the reference says.
func (w *owner) certain(dependent *object) bool {
	return w.seen && !w.gone && w.kind != nil && w.matches(dependent)
}

func (w *owner) matches(dependent *object) bool {
	gv, err := schema.ParseGroupVersion(w.ref.apiVersion)
	if err != nil || gv.Group != w.kind.gvk.Group || w.ref.kind != w.kind.gvk.Kind || w.name != w.object.name {
		return false
	}
	return !w.kind.namespaced || w.namespace == dependent.namespace
}

// tidy drops an entry that says nothing any more.
func (g *graph) tidy(o *object) {
	if (o.gone || !o.seen) && len(o.dependents) == 0 {
		delete(g.objects, o.uid)
	}
}
