package gc

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var (
	sets = &kind{gvk: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}, namespaced: true}
	pods = &kind{gvk: schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, namespaced: true}
)

func thing(uid, finalizer string, owners ...metav1.OwnerReference) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: "n-" + uid, Namespace: "ns", OwnerReferences: owners}}
	if finalizer != "" {
		o.DeletionTimestamp, o.Finalizers = &metav1.Time{}, []string{finalizer}
	}
	return o
}

func ownedBy(uid string, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", UID: types.UID(uid), Name: "n-" + uid, BlockOwnerDeletion: &block}
}

func looked(uids []types.UID) string {
	var out []string
	for _, u := range uids {
		out = append(out, string(u))
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), " ")
}

func TestGraph(t *testing.T) {
	type step struct {
		do   func(*graph) []types.UID
		look string
	}
	see := func(k *kind, o *metav1.PartialObjectMetadata) func(*graph) []types.UID {
		return func(g *graph) []types.UID { return g.observe(k, o) }
	}
	gone := func(uid string) func(*graph) []types.UID {
		return func(g *graph) []types.UID { return g.forget(types.UID(uid)) }
	}
	foreign := ownedBy("rs", true)
	foreign.Name = "someone-else"
	for _, c := range []struct {
		name  string
		steps []step
		left  int
	}{
		{"owner first", []step{{see(sets, thing("rs", "")), ""}, {see(pods, thing("p", "", ownedBy("rs", true))), ""}}, 2},
		{"dependent first is in doubt", []step{{see(pods, thing("p", "", ownedBy("rs", true))), "p"}, {see(sets, thing("rs", "")), ""}}, 2},
		{"owner goes", []step{{see(sets, thing("rs", "")), ""}, {see(pods, thing("p", "", ownedBy("rs", true))), ""}, {gone("rs"), "p"}}, 2},
		{"then the dependent, and nothing is left", []step{{see(sets, thing("rs", "")), ""}, {see(pods, thing("p", "", ownedBy("rs", true))), ""}, {gone("rs"), "p"}, {gone("p"), ""}}, 0},
		{"without owners nothing is looked at", []step{{see(pods, thing("p", "")), ""}, {see(pods, thing("p", "")), ""}, {gone("p"), ""}}, 0},
		{"a reference that doesn't fit is in doubt", []step{{see(sets, thing("rs", "")), ""}, {see(pods, thing("p", "", foreign)), "p"}}, 2},
		{"foreground", []step{
			{see(sets, thing("rs", "")), ""},
			{see(pods, thing("p", "", ownedBy("rs", true))), ""},
			{see(sets, thing("rs", metav1.FinalizerDeleteDependents)), "p rs"},
			{gone("p"), "rs"},
		}, 1},
		{"a dependent let go brings its owner back", []step{
			{see(sets, thing("rs", metav1.FinalizerDeleteDependents)), "rs"},
			{see(pods, thing("p", "", ownedBy("rs", true))), "p"},
			{see(pods, thing("p", "", ownedBy("rs", false))), "p rs"},
			{see(pods, thing("p", "")), "rs"},
		}, 2},
		{"orphan", []step{{see(sets, thing("rs", "")), ""}, {see(pods, thing("p", "", ownedBy("rs", true))), ""}, {see(sets, thing("rs", metav1.FinalizerOrphanDependents)), "rs"}}, 2},
		{"an unseen owner leaves with its dependent", []step{{see(pods, thing("p", "", ownedBy("rs", true))), "p"}, {gone("p"), ""}}, 0},
		{"one owner of two goes", []step{
			{see(sets, thing("a", "")), ""}, {see(sets, thing("b", "")), ""}, {see(pods, thing("p", "", ownedBy("a", true), ownedBy("b", true))), ""}, {gone("a"), "p"},
		}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGraph()
			for i, s := range c.steps {
				if got := looked(s.do(g)); got != s.look {
					t.Errorf("step %d: look at %q, want %q", i, got, s.look)
				}
			}
			if len(g.objects) != c.left {
				t.Errorf("%d entries left, want %d", len(g.objects), c.left)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	refs := func(n int) (out []metav1.OwnerReference) {
		for i := range n {
			out = append(out, ownedBy(fmt.Sprint(i), true))
		}
		return out
	}
	for _, c := range []struct {
		name           string
		standings      []standing
		dependents     bool
		dependentsWait bool
		finalizers     []string
		want           string
	}{
		{"no owners", nil, false, false, nil, ""},
		{"a solid owner", []standing{solid}, true, false, nil, ""},
		{"the only owner is gone", []standing{dangling}, false, false, nil, "delete Background"},
		{"one of two is gone", []standing{dangling, solid}, false, false, nil, "keep 1"},
		{"one of two waits", []standing{solid, waiting}, false, false, nil, "keep 0"},
		{"all gone", []standing{dangling, dangling}, true, false, nil, "delete Background"},
		{"its owner waits", []standing{waiting}, false, false, nil, "delete Background"},
		{"its owner waits, it has dependents", []standing{waiting}, true, false, nil, "delete Foreground"},
		{"a circle", []standing{waiting}, true, true, nil, "unblock delete Foreground"},
		{"wants to orphan", []standing{dangling}, true, false, []string{metav1.FinalizerOrphanDependents}, "delete Orphan"},
		{"wants foreground", []standing{dangling}, true, false, []string{metav1.FinalizerDeleteDependents}, "delete Foreground"},
		{"some other finalizer", []standing{dangling}, true, false, []string{"x/y"}, "delete Background"},
	} {
		v := judge(refs(len(c.standings)), c.standings, c.dependents, c.dependentsWait, c.finalizers)
		var got []string
		if v.drop {
			got = append(got, "keep")
			for _, r := range v.keepOwners {
				got = append(got, string(r.UID))
			}
		}
		if v.unblock {
			got = append(got, "unblock")
		}
		if v.remove {
			got = append(got, "delete", string(v.policy))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}
