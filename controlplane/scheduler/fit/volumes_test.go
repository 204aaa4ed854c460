package fit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"
)

// store is a small Volumes.
type store struct {
	claims  []*corev1.PersistentVolumeClaim
	volumes []*corev1.PersistentVolume
	classes []*storagev1.StorageClass
}

var _ Volumes = (*store)(nil)

func (s *store) Claim(ns, name string) *corev1.PersistentVolumeClaim {
	for _, c := range s.claims {
		if c.Namespace == ns && c.Name == name {
			return c
		}
	}
	return nil
}

func (s *store) Volume(name string) *corev1.PersistentVolume {
	for _, v := range s.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (s *store) VolumesOfClass(class string) []*corev1.PersistentVolume {
	var out []*corev1.PersistentVolume
	for _, v := range s.volumes {
		if v.Spec.StorageClassName == class {
			out = append(out, v)
		}
	}
	return out
}

func (s *store) Class(name string) *storagev1.StorageClass {
	for _, c := range s.classes {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func claim(name, class, volume string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-" + "x", Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: volume, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")},
		},
	}
	if volume != "" {
		c.Annotations[volumehelper.AnnBindCompleted] = "yes"
	}
	return c
}

func volume(name, class, host string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, Capacity: list("storage", "1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if host != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
	}
	return v
}

func class(name, provisioner string, waits bool) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingImmediate
	if waits {
		mode = storagev1.VolumeBindingWaitForFirstConsumer
	}
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func uses(names ...string) podOption {
	return spec(func(s *corev1.PodSpec) {
		for _, n := range names {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: n, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: n}}})
		}
	})
}

func TestFilterVolumes(t *testing.T) {
	const (
		unbound  = "pod has unbound immediate PersistentVolumeClaims"
		affinity = "node(s) didn't match PersistentVolume's node affinity"
		none     = "node(s) didn't find available persistent volumes to bind"
		inUse    = "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
		gone     = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
	)
	const noProvisioner = volumehelper.NotSupportedProvisioner
	exclusive := claim("c", "", "v")
	exclusive.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	deleted := claim("c", "", "v")
	deleted.DeletionTimestamp = &metav1.Time{}
	chosen := claim("c", "dyn", "")
	chosen.Annotations[volumehelper.AnnSelectedNode] = "b"
	zoned := class("zoned", "example.com/p", true)
	zoned.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelHostname, Values: []string{"b"}}}}}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		v    store
		onA  []*corev1.Pod
		want []string
	}{
		{"no claim of that name", pod(uses("c")), store{}, nil, []string{`persistentvolumeclaim "c" not found`, `persistentvolumeclaim "c" not found`}},
		{"bound, anywhere", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "", "v")}, volumes: []*corev1.PersistentVolume{volume("v", "", "")}}, nil, []string{"", ""}},
		{"bound, local to b", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "", "v")}, volumes: []*corev1.PersistentVolume{volume("v", "", "b")}}, nil, []string{affinity, ""}},
		{"bound to nothing", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "", "v")}}, nil, []string{gone, gone}},
		{"being deleted", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{deleted}}, nil, []string{`persistentvolumeclaim "c" is being deleted`, `persistentvolumeclaim "c" is being deleted`}},
		{"unbound", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "now", "")}, classes: []*storagev1.StorageClass{class("now", "example.com/p", false)}}, nil, []string{unbound, unbound}},
		{"waits for a consumer, local volume on b", pod(uses("c")), store{
			claims: []*corev1.PersistentVolumeClaim{claim("c", "local", "")}, classes: []*storagev1.StorageClass{class("local", noProvisioner, true)},
			volumes: []*corev1.PersistentVolume{volume("v", "local", "b")},
		}, nil, []string{none, ""}},
		{"two claims, one volume", pod(uses("c", "d")), store{
			claims: []*corev1.PersistentVolumeClaim{claim("c", "local", ""), claim("d", "local", "")}, classes: []*storagev1.StorageClass{class("local", noProvisioner, true)},
			volumes: []*corev1.PersistentVolume{volume("v", "local", "b")},
		}, nil, []string{none, none}},
		{"a provisioner will make it", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "dyn", "")}, classes: []*storagev1.StorageClass{class("dyn", "example.com/p", true)}}, nil, []string{"", ""}},
		{"a provisioner for some nodes", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{claim("c", "zoned", "")}, classes: []*storagev1.StorageClass{zoned}}, nil, []string{none, ""}},
		{"provisioning for another node is under way", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{chosen}, classes: []*storagev1.StorageClass{class("dyn", "example.com/p", true)}}, nil, []string{none, ""}},
		{"one pod only", pod(uses("c")), store{claims: []*corev1.PersistentVolumeClaim{exclusive}, volumes: []*corev1.PersistentVolume{volume("v", "", "")}}, []*corev1.Pod{pod(uses("c"))}, []string{inUse, inUse}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot(node("a").with(c.onA...), node("b"))
			s.Volumes = &c.v
			if got := verdicts(t, c.pod, s); !same(got, c.want) {
				t.Errorf("reasons = %q, want %q", got, c.want)
			}
		})
	}
}
