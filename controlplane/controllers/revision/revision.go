// Package revision keeps the history of pod templates of DaemonSets and StatefulSets in ControllerRevisions, the
// objects that "kubectl rollout history" shows and "kubectl rollout undo" applies as patches.
//
// Reads: ControllerRevisions. Writes: ControllerRevisions (create, renumber, adopt, release, delete).
package revision

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

// Data is what a revision holds: a strategic merge patch that puts the template back.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	b, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	var t map[string]any
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	t["$patch"] = "replace"
	b, err = json.Marshal(map[string]any{"spec": map[string]any{"template": t}})
	if err != nil {
		return nil, fmt.Errorf("encode pod template: %w", err)
	}
	return b, nil
}

// Template is the template that a revision holds.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var v struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &v); err != nil {
		return nil, fmt.Errorf("template in revision %s: %w", r.Name, err)
	}
	return &v.Spec.Template, nil
}

// Holds says whether a revision holds a template. data is the template's Data. Revisions written by another version
// may differ in bytes, but not in meaning.
func Holds(r *appsv1.ControllerRevision, template *corev1.PodTemplateSpec, data []byte) bool {
	if bytes.Equal(r.Data.Raw, data) {
		return true
	}
	t, err := Template(r)
	return err == nil && equality.Semantic.DeepEqual(t, template)
}

// Sort orders revisions from the oldest to the newest.
func Sort(list []*appsv1.ControllerRevision) {
	slices.SortStableFunc(list, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
}

// Expired picks the revisions beyond the limit, oldest first, among those that nothing uses any more. list is sorted.
func Expired(list []*appsv1.ControllerRevision, limit int, live func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	dead := slices.DeleteFunc(slices.Clone(list), live)
	if limit < 0 || len(dead) <= limit {
		return nil
	}
	return dead[:len(dead)-limit]
}

// TemplateHash names a template. It is the hash that upstream computes, so that objects made there keep their names
// here; collisions makes it another one after a clash.
func TemplateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*t))
	if collisions != nil {
		var b [8]byte
		binary.LittleEndian.PutUint32(b[:], uint32(*collisions))
		_, _ = h.Write(b[:]) // a hash never fails
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// DataHash names what a revision holds, as upstream does for StatefulSets.
func DataHash(data []byte, collisions int32) string {
	h := fnv.New32()
	_, _ = h.Write(data)
	_, _ = h.Write([]byte(strconv.FormatInt(int64(collisions), 10)))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// maxPrefix leaves room for the hash in a revision's name.
const maxPrefix = 223

// Name of a revision.
func Name(owner, hash string) string {
	if len(owner) > maxPrefix {
		owner = owner[:maxPrefix]
	}
	return owner + "-" + hash
}
