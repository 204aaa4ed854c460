package fit

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// What a container without a request is taken to use when nodes are scored; filters count nothing for it.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// Resources are amounts by resource, with those that every pod uses as plain fields.
type Resources struct {
	MilliCPU, Memory, EphemeralStorage int64
	Scalar                             map[corev1.ResourceName]int64 // extended resources, huge pages
}

func newResources(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
		default:
			if r.Scalar == nil {
				r.Scalar = map[corev1.ResourceName]int64{}
			}
			r.Scalar[name] = q.Value()
		}
	}
	return r
}

func (r *Resources) add(o Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	for name, v := range o.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		r.Scalar[name] += sign * v
	}
}

// hostPort is a port of the node that a container asks for.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == "0.0.0.0" || o.ip == "0.0.0.0")
}

// Pod is a pod with what the decisions need, worked out once.
type Pod struct {
	*corev1.Pod
	Priority int32
	Request  Resources

	assumedCPU, assumedMemory int64 // for scores: with an assumption for what asks for nothing
	ports                     []hostPort
	affinity, antiAffinity    []term
	prefer, avoid             []weightedTerm
	badAffinity               error // an affinity term that can't be parsed
}

// NewPod works out a pod's requests: containers, init containers and sidecars, overhead, pod-level resources, and
// while a resize is under way the larger of what is wanted and what is still held.
func NewPod(p *corev1.Pod) *Pod {
	opts := resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	list := resourcehelper.PodRequests(p, opts)
	f := &Pod{Pod: p, Priority: schedulinghelper.PodPriority(p), Request: newResources(list)}
	f.assumedCPU, f.assumedMemory = f.Request.MilliCPU, f.Request.Memory
	if !resourcehelper.IsPodLevelRequestsSet(p) || f.assumedCPU == 0 || f.assumedMemory == 0 {
		opts.NonMissingContainerRequests = corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedMilliCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.BinarySI),
		}
		list = resourcehelper.PodRequests(p, opts)
		f.assumedCPU, f.assumedMemory = list.Cpu().MilliValue(), list.Memory().Value()
	}
	f.ports = hostPorts(p)
	f.parseAffinity()
	return f
}

func hostPorts(p *corev1.Pod) []hostPort {
	var ports []hostPort
	collect := func(c *corev1.Container) {
		for _, cp := range c.Ports {
			if cp.HostPort <= 0 {
				continue
			}
			hp := hostPort{ip: cp.HostIP, protocol: cp.Protocol, port: cp.HostPort}
			if hp.ip == "" || hp.ip == "::" {
				hp.ip = "0.0.0.0"
			}
			if hp.protocol == "" {
				hp.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, hp)
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	for i := range p.Spec.Containers {
		collect(&p.Spec.Containers[i])
	}
	return ports
}

// hasTerms says whether the pod's own affinity concerns pods that come later.
func (p *Pod) hasTerms() bool {
	return len(p.affinity)+len(p.antiAffinity)+len(p.prefer)+len(p.avoid) > 0
}
