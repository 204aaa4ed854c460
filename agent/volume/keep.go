package volume

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/objects"
)

// allRefsOf are the objects that a pod needs to start: those of its volumes, its environment and its image pulls.
func allRefsOf(pod *corev1.Pod) []objects.Ref {
	refs := refsOf(pod)
	add := func(kind objects.Kind, name string) {
		refs = append(refs, objects.Ref{Kind: kind, Namespace: pod.Namespace, Name: name})
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(objects.Secrets, s.Name)
	}
	environment := func(from []corev1.EnvFromSource, vars []corev1.EnvVar) {
		for _, f := range from {
			if f.ConfigMapRef != nil {
				add(objects.ConfigMaps, f.ConfigMapRef.Name)
			}
			if f.SecretRef != nil {
				add(objects.Secrets, f.SecretRef.Name)
			}
		}
		for _, v := range vars {
			if v.ValueFrom == nil {
				continue
			}
			if r := v.ValueFrom.ConfigMapKeyRef; r != nil {
				add(objects.ConfigMaps, r.Name)
			}
			if r := v.ValueFrom.SecretKeyRef; r != nil {
				add(objects.Secrets, r.Name)
			}
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			environment(list[i].EnvFrom, list[i].Env)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		environment(pod.Spec.EphemeralContainers[i].EnvFrom, pod.Spec.EphemeralContainers[i].Env)
	}
	return refs
}

// Sweep drops the kept objects that none of the node's pods refers to.
func (v *Volumes) Sweep(pods []*corev1.Pod) {
	var refs []objects.Ref
	for _, pod := range pods {
		refs = append(refs, allRefsOf(pod)...)
	}
	v.kept.Sweep(refs)
}
