package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxHostname is what the kernel can hold.
const maxHostname = 64

// hostnameOverride is a host name that stands alone: nothing else makes one for the same pod (KEP-4762).
func hostnameOverride(l *list, spec *corev1.PodSpec, p *field.Path) {
	name := spec.HostnameOverride
	if name == nil {
		return
	}
	p = p.Child("hostnameOverride")
	l.dnsSubdomain(p, *name)
	if len(*name) > maxHostname {
		l.add(field.TooLong(p, "", maxHostname))
	}
	if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
		l.add(field.Forbidden(p, "may not be set together with `setHostnameAsFQDN`"))
	}
	if spec.HostNetwork {
		l.add(field.Forbidden(p, "may not be set together with `hostNetwork`"))
	}
}

// fileKeyVolumes checks that environment files are in emptyDir volumes of the pod (KEP-3721).
func fileKeyVolumes(l *list, spec *corev1.PodSpec, p *field.Path) {
	check := func(env []corev1.EnvVar, p *field.Path) {
		for i := range env {
			if env[i].ValueFrom == nil || env[i].ValueFrom.FileKeyRef == nil {
				continue
			}
			name := env[i].ValueFrom.FileKeyRef.VolumeName
			p := p.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			var volume *corev1.Volume
			for j := range spec.Volumes {
				if spec.Volumes[j].Name == name {
					volume = &spec.Volumes[j]
				}
			}
			switch {
			case name == "": // said already
			case volume == nil:
				l.add(field.NotFound(p, name))
			case volume.EmptyDir == nil:
				l.add(field.Invalid(p, name, "referenced volume must be of type emptyDir"))
			}
		}
	}
	for i := range spec.InitContainers {
		check(spec.InitContainers[i].Env, p.Child("initContainers").Index(i))
	}
	for i := range spec.Containers {
		check(spec.Containers[i].Env, p.Child("containers").Index(i))
	}
	for i := range spec.EphemeralContainers {
		check(spec.EphemeralContainers[i].Env, p.Child("ephemeralContainers").Index(i))
	}
}
