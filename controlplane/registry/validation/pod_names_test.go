package validation

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestPodNames(t *testing.T) {
	yes := true
	name := func(s string) *string { return &s }
	env := func(volume string) []corev1.Container {
		return []corev1.Container{{Env: []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: volume, Path: "f", Key: "K"}}}}}}
	}
	vols := []corev1.Volume{
		{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}},
	}
	for what, c := range map[string]struct {
		spec corev1.PodSpec
		err  string
	}{
		"a name":                 {corev1.PodSpec{HostnameOverride: name("a.example.com")}, ""},
		"no name":                {corev1.PodSpec{HostnameOverride: name("Not_A_Name")}, "hostnameOverride"},
		"too long":               {corev1.PodSpec{HostnameOverride: name(strings.Repeat("a", 65))}, "may not be more than 64"},
		"with an FQDN":           {corev1.PodSpec{HostnameOverride: name("a"), SetHostnameAsFQDN: &yes}, "setHostnameAsFQDN"},
		"on the host":            {corev1.PodSpec{HostnameOverride: name("a"), HostNetwork: true}, "hostNetwork"},
		"a file in an emptyDir":  {corev1.PodSpec{Containers: env("dir"), Volumes: vols}, ""},
		"a file in no volume":    {corev1.PodSpec{InitContainers: env("gone"), Volumes: vols}, "spec.initContainers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found"},
		"a file in another kind": {corev1.PodSpec{Containers: env("host"), Volumes: vols}, "must be of type emptyDir"},
	} {
		var l list
		hostnameOverride(&l, &c.spec, field.NewPath("spec"))
		fileKeyVolumes(&l, &c.spec, field.NewPath("spec"))
		if err := l.ToAggregate(); (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", what, err, c.err)
		}
	}
}
