package volume

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A local volume may be named by a link; the first pod's fsGroup holds until nobody uses the volume any more.
func TestLocalVolumeIsShared(t *testing.T) {
	v, c := setup(t)
	var warned []string
	v.cfg.Warn = func(_ *corev1.Pod, reason, message string) { warned = append(warned, reason+": "+message) }
	dir := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	c.claims = map[string]*corev1.PersistentVolumeClaim{"c": {ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}}
	c.volumes = map[string]*corev1.PersistentVolume{"pv": {ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "u"}, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: link}}}}}
	user := func(uid string, group int64, readOnly bool) *corev1.Pod {
		p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly}}})
		p.Name, p.UID = uid, types.UID(uid)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(group)}
		return p
	}
	group := func() int {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return groupOf(info)
	}
	reader := user("reader", 66, true)
	mount(t, v, reader)
	if group() == 66 {
		t.Error("a pod that may only read was given the volume")
	}
	if err := v.Unmount(t.Context(), reader.UID); err != nil {
		t.Fatal(err)
	}
	first, second := user("first", 77, false), user("second", 88, false)
	mount(t, v, first)
	if group() != 77 {
		t.Errorf("group %d behind the link, want 77", group())
	}
	mount(t, v, second)
	if want := "AlreadyMountedVolume: The requested fsGroup is 88, but the volume pv has GID 77. The volume may not be shareable."; group() != 77 || len(warned) != 1 || warned[0] != want {
		t.Errorf("group %d, events %q; want 77 and %q", group(), warned, want)
	}
	for _, p := range []*corev1.Pod{first, second} {
		if err := v.Unmount(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, v, second)
	if group() != 88 {
		t.Errorf("group %d of a volume that nobody used, want 88", group())
	}
}
