package validation

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A bundle that belongs to a signer is named <signer>:<name> (seen in upstream's conformance spec of a hundred bundles).
func TestProjectedTrustBundleName(t *testing.T) {
	for name, want := range map[string]string{
		"plain":                   "",
		"example.com:mysigner:v1": "",
		"example.com:mysigner:V1": "spec.volumes[0].projected.sources[0].clusterTrustBundle.name: Invalid value: \"V1\": a lowercase RFC 1123 subdomain",
	} {
		expect(t, name, texts(goodPod(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &name, Path: "ca.pem"}}},
			}}}}
		}), nil), want)
	}
}
