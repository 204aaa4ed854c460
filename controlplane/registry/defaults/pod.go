package defaults

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod defaults a pod: its spec, and what holds for pods but not for templates.
func Pod(pod *corev1.Pod) {
	PodSpec(&pod.Spec)
	if g := pod.Spec.TerminationGracePeriodSeconds; *g < 0 { // as old clients give it, for the shortest there is
		pod.Spec.TerminationGracePeriodSeconds = new(int64(1))
	}
	unset(&pod.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if pod.Spec.HostNetwork {
		hostPorts(pod.Spec.Containers)
		hostPorts(pod.Spec.InitContainers)
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			requestsFromLimits(&list[i].Resources)
		}
	}
	podLevelRequests(&pod.Spec)
}

// PodTemplate defaults the template of a PodTemplate object.
func PodTemplate(t *corev1.PodTemplate) { PodTemplateSpec(&t.Template) }

// PodTemplateSpec defaults the template of a workload.
func PodTemplateSpec(t *corev1.PodTemplateSpec) {
	PodSpec(&t.Spec)
	if t.Spec.HostNetwork {
		hostPorts(t.Spec.Containers)
		hostPorts(t.Spec.InitContainers)
	}
}

// PodSpec defaults what pods and templates have in common.
func PodSpec(spec *corev1.PodSpec) {
	zero(&spec.DNSPolicy, corev1.DNSClusterFirst)
	zero(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	zero(&spec.SchedulerName, corev1.DefaultSchedulerName)
	unset(&spec.SecurityContext, corev1.PodSecurityContext{})
	unset(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	for i := range spec.Volumes {
		volume(&spec.Volumes[i])
	}
	for i := range spec.InitContainers {
		container(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		container(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		// The fields are the same; EphemeralContainerCommon is a copy of Container by definition.
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		container(&c)
		spec.EphemeralContainers[i].EphemeralContainerCommon = corev1.EphemeralContainerCommon(c)
	}
	roundResources(spec.Overhead)
	if spec.Resources != nil {
		roundResources(spec.Resources.Requests)
		roundResources(spec.Resources.Limits)
	}
}

func container(c *corev1.Container) {
	zero(&c.ImagePullPolicy, pullPolicy(c.Image))
	zero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	zero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		zero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			zero(&from.FieldRef.APIVersion, "v1")
		}
		if from := c.Env[i].ValueFrom; from != nil && from.FileKeyRef != nil {
			unset(&from.FileKeyRef.Optional, false)
		}
	}
	roundResources(c.Resources.Requests)
	roundResources(c.Resources.Limits)
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		probe(p)
	}
	if l := c.Lifecycle; l != nil {
		if l.PostStart != nil {
			httpGet(l.PostStart.HTTPGet)
		}
		if l.PreStop != nil {
			httpGet(l.PreStop.HTTPGet)
		}
	}
}

// pullPolicy: an image that moves (":latest" or no tag) is asked for every time.
func pullPolicy(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		return corev1.PullIfNotPresent
	}
	name := image[strings.LastIndex(image, "/")+1:]
	if _, tag, ok := strings.Cut(name, ":"); ok && tag != "latest" {
		return corev1.PullIfNotPresent
	}
	return corev1.PullAlways
}

func probe(p *corev1.Probe) {
	if p == nil {
		return
	}
	zero(&p.TimeoutSeconds, 1)
	zero(&p.PeriodSeconds, 10)
	zero(&p.SuccessThreshold, 1)
	zero(&p.FailureThreshold, 3)
	httpGet(p.HTTPGet)
	if p.GRPC != nil {
		unset(&p.GRPC.Service, "")
	}
}

func httpGet(h *corev1.HTTPGetAction) {
	if h == nil {
		return
	}
	zero(&h.Path, "/")
	zero(&h.Scheme, corev1.URISchemeHTTP)
}

func hostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			zero(&containers[i].Ports[j].HostPort, containers[i].Ports[j].ContainerPort)
		}
	}
}

// requestsFromLimits: who gives a limit alone, asks for as much.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = limit.DeepCopy()
	}
}

// podLevelRequests: a pod-level limit without a request takes the containers' sum where every part asks for the
// resource, and the limit otherwise.
func podLevelRequests(spec *corev1.PodSpec) {
	r := spec.Resources
	if r == nil {
		return
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; ok {
			continue
		}
		sum, any := resource.Quantity{}, false
		for _, c := range spec.Containers {
			if q, ok := c.Resources.Requests[name]; ok {
				sum.Add(q)
				any = true
			}
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		if any {
			r.Requests[name] = sum
		} else {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// roundResources rounds up to a thousandth: nothing finer is stored.
func roundResources(list corev1.ResourceList) {
	for name, q := range list {
		q.RoundUp(resource.Milli)
		list[name] = q
	}
}

func volume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	mode := corev1.ConfigMapVolumeSourceDefaultMode
	switch s := v.VolumeSource; {
	case s.HostPath != nil:
		unset(&s.HostPath.Type, corev1.HostPathUnset)
	case s.Secret != nil:
		unset(&s.Secret.DefaultMode, mode)
	case s.ConfigMap != nil:
		unset(&s.ConfigMap.DefaultMode, mode)
	case s.DownwardAPI != nil:
		unset(&s.DownwardAPI.DefaultMode, mode)
		downwardItems(s.DownwardAPI.Items)
	case s.Projected != nil:
		unset(&s.Projected.DefaultMode, mode)
		for i := range s.Projected.Sources {
			src := &s.Projected.Sources[i]
			if src.ServiceAccountToken != nil {
				unset(&src.ServiceAccountToken.ExpirationSeconds, int64(3600))
			}
			if src.DownwardAPI != nil {
				downwardItems(src.DownwardAPI.Items)
			}
		}
	case s.ISCSI != nil:
		zero(&s.ISCSI.ISCSIInterface, "default")
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		unset(&s.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	case s.Image != nil:
		zero(&s.Image.PullPolicy, pullPolicy(s.Image.Reference))
	}
}

func downwardItems(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			zero(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}
