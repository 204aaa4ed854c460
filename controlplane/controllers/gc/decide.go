package gc

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// standing is how an owner counts for its dependent.
type standing int

const (
	solid    standing = iota // there: the dependent stays
	dangling                 // gone
	waiting                  // there, but only until its dependents are gone
)

// verdict is what is to be done about an object that has owners.
type verdict struct {
	keepOwners []metav1.OwnerReference // with drop: the references that remain
	drop       bool                    // take the other references away
	unblock    bool                    // take blockOwnerDeletion away: the object waits for its owners, who wait for it
	remove     bool
	policy     metav1.DeletionPropagation
}

// judge decides from the standings of an object's owners, which are in the order of its references.
//
// One solid owner keeps the object; its references to the others are dropped. Without any, it is deleted: in the
// foreground if an owner waits for it and it has dependents of its own, else as its finalizers ask for.
func judge(refs []metav1.OwnerReference, standings []standing, hasDependents, dependentsWait bool, finalizers []string) verdict {
	var v verdict
	count := map[standing]int{}
	for i, s := range standings {
		count[s]++
		if s == solid {
			v.keepOwners = append(v.keepOwners, refs[i])
		}
	}
	switch {
	case len(refs) == 0:
	case count[solid] > 0:
		v.drop = count[dangling]+count[waiting] > 0
	case count[waiting] > 0 && hasDependents:
		v.unblock = dependentsWait
		v.remove, v.policy = true, metav1.DeletePropagationForeground
	default:
		v.remove, v.policy = true, metav1.DeletePropagationBackground
		for _, f := range finalizers {
			switch f {
			case metav1.FinalizerOrphanDependents:
				v.policy = metav1.DeletePropagationOrphan
				return v
			case metav1.FinalizerDeleteDependents:
				v.policy = metav1.DeletePropagationForeground
			}
		}
	}
	return v
}
