package volume

import corev1 "k8s.io/api/core/v1"

// Plugin is the name of what mounts a volume, as upstream's metrics have it.
func Plugin(vol *corev1.Volume) string {
	switch s := &vol.VolumeSource; {
	case s.EmptyDir != nil:
		return "kubernetes.io/empty-dir"
	case s.HostPath != nil:
		return "kubernetes.io/host-path"
	case s.ConfigMap != nil:
		return "kubernetes.io/configmap"
	case s.Secret != nil:
		return "kubernetes.io/secret"
	case s.DownwardAPI != nil:
		return "kubernetes.io/downward-api"
	case s.Projected != nil:
		return "kubernetes.io/projected"
	case s.Image != nil:
		return "kubernetes.io/image"
	case s.PersistentVolumeClaim != nil, s.Ephemeral != nil:
		return "kubernetes.io/local-volume"
	}
	return "N/A"
}

func outcome(err error) string {
	if err != nil {
		return "fail-unknown"
	}
	return "success"
}

// Mounted counts the volumes that stand, by plugin. Those of a pod whose volumes are just being made aren't among them.
func (v *Volumes) Mounted() map[string]int {
	v.mu.Lock()
	pods := make([]*podVolumes, 0, len(v.pods))
	for _, p := range v.pods {
		pods = append(pods, p)
	}
	v.mu.Unlock()
	out := map[string]int{}
	for _, p := range pods {
		if !p.mu.TryLock() {
			continue
		}
		if p.pod != nil {
			for i := range p.pod.Spec.Volumes {
				if _, done := p.mounted[p.pod.Spec.Volumes[i].Name]; done {
					out[Plugin(&p.pod.Spec.Volumes[i])]++
				}
			}
		}
		p.mu.Unlock()
	}
	return out
}
