package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// hostUsers checks what does and doesn't go with a user namespace of the pod's own.
func hostUsers(l *list, spec *corev1.PodSpec, p *field.Path) {
	own := spec.HostUsers != nil && !*spec.HostUsers
	const why = "when `hostUsers` is false"
	for _, with := range []struct {
		host bool
		name string
	}{{spec.HostNetwork, "hostNetwork"}, {spec.HostPID, "HostPID"}, {spec.HostIPC, "HostIPC"}} {
		if own && with.host {
			l.add(field.Forbidden(p.Child(with.name), why))
		}
	}
	each := func(kind string, i int, devices []corev1.VolumeDevice, sc *corev1.SecurityContext) {
		at := p.Child(kind).Index(i)
		if own && len(devices) > 0 { // the node can neither map nor give away a block device
			l.add(field.Forbidden(at.Child("volumeDevices"), why))
		}
		if !own && sc != nil && sc.ProcMount != nil && *sc.ProcMount == corev1.UnmaskedProcMount {
			l.add(field.Invalid(at.Child("securityContext", "procMount"), *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	for i := range spec.InitContainers {
		each("initContainers", i, spec.InitContainers[i].VolumeDevices, spec.InitContainers[i].SecurityContext)
	}
	for i := range spec.Containers {
		each("containers", i, spec.Containers[i].VolumeDevices, spec.Containers[i].SecurityContext)
	}
	for i := range spec.EphemeralContainers {
		each("ephemeralContainers", i, spec.EphemeralContainers[i].VolumeDevices, spec.EphemeralContainers[i].SecurityContext)
	}
}
