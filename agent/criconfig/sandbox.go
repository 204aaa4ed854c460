package criconfig

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/agent/cri"
)

// SandboxInput is all that a sandbox's configuration comes from.
type SandboxInput struct {
	Pod           *corev1.Pod
	Attempt       uint32
	CgroupParent  string
	LogRoot       string // /var/log/pods
	SeccompRoot   string
	DNS           DNS
	ClusterDomain string
	// Resources are the pod's as a whole, for runtimes that size a sandbox beforehand; nil leaves them out.
	Resources *runtimeapi.LinuxContainerResources
	// Users is the mapping of the pod's user namespace; nil means the host's.
	Users *runtimeapi.UserNamespace
}

// Sandbox is the sandbox's configuration.
func Sandbox(in SandboxInput) (*runtimeapi.PodSandboxConfig, error) {
	pod := in.Pod
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: in.Attempt},
		LogDirectory: filepath.Join(in.LogRoot, LogDir(pod)),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: in.DNS.Servers, Searches: in.DNS.Searches, Options: in.DNS.Options},
		PortMappings: portMappings(pod),
		Labels:       map[string]string{cri.LabelPodName: pod.Name, cri.LabelPodNamespace: pod.Namespace, cri.LabelPodUID: string(pod.UID)},
		Annotations:  maps.Clone(pod.Annotations),
	}
	for k, v := range pod.Labels {
		if _, ok := cfg.Labels[k]; !ok {
			cfg.Labels[k] = v
		}
	}
	if !pod.Spec.HostNetwork {
		var err error
		if cfg.Hostname, err = sandboxHostname(pod, in.ClusterDomain); err != nil {
			return nil, err
		}
	}
	p, _ := contexts(pod, nil)
	privileged := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			privileged = privileged || (list[i].SecurityContext != nil && isTrue(list[i].SecurityContext.Privileged))
		}
	}
	cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{
		CgroupParent: in.CgroupParent,
		Resources:    in.Resources,
		Sysctls:      map[string]string{},
		SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions:         namespaces(pod, "", in.Users),
			SelinuxOptions:           selinux(p.SELinuxOptions),
			RunAsUser:                int64Value(p.RunAsUser),
			RunAsGroup:               int64Value(p.RunAsGroup),
			SupplementalGroups:       groups(p),
			SupplementalGroupsPolicy: groupsPolicy(p),
			Privileged:               privileged,
			Seccomp:                  &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		},
	}
	for _, s := range p.Sysctls {
		cfg.Linux.Sysctls[strings.ReplaceAll(s.Name, "/", ".")] = s.Value
	}
	return cfg, nil
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	if pod.Spec.HostNetwork {
		return nil
	}
	var out []*runtimeapi.PortMapping
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			out = append(out, &runtimeapi.PortMapping{
				Protocol:      runtimeapi.Protocol(runtimeapi.Protocol_value[string(p.Protocol)]), // an empty one is TCP, which is 0
				ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP,
			})
		}
	}
	for i := range pod.Spec.InitContainers {
		if r := pod.Spec.InitContainers[i].RestartPolicy; r != nil && *r == corev1.ContainerRestartPolicyAlways {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// safeSysctls are namespaced and can't hurt other pods (the list of the Pod Security standards).
var safeSysctls = map[string]bool{
	"kernel.shm_rmid_forced": true, "net.ipv4.ip_local_port_range": true, "net.ipv4.tcp_syncookies": true, "net.ipv4.ping_group_range": true,
	"net.ipv4.ip_unprivileged_port_start": true, "net.ipv4.ip_local_reserved_ports": true, "net.ipv4.tcp_keepalive_time": true,
	"net.ipv4.tcp_fin_timeout": true, "net.ipv4.tcp_keepalive_intvl": true, "net.ipv4.tcp_keepalive_probes": true, "net.ipv4.tcp_rmem": true,
	"net.ipv4.tcp_wmem": true,
}

// ForbiddenSysctl returns the message of the first sysctl that this node refuses, or "".
func ForbiddenSysctl(pod *corev1.Pod, allowed []string) string {
	p, _ := contexts(pod, nil)
	for _, s := range p.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		ok := safeSysctls[name]
		for _, a := range allowed {
			prefix, wild := strings.CutSuffix(a, "*")
			ok = ok || name == a || wild && strings.HasPrefix(name, prefix)
		}
		switch {
		case !ok:
			return fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)
		case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)
		case pod.Spec.HostIPC && strings.HasPrefix(name, "kernel."):
			return fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)
		}
	}
	return ""
}
