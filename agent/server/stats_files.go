package server

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/mote-edge/mote/agent/cgroup"
)

// files adds what a container has written: its layer, as the runtime says, and its logs.
func (s *Server) files(k *stats.ContainerStats, c *consumer, node *stats.FsStats, sandbox *runtimeapi.PodSandboxStats) {
	if node == nil {
		return
	}
	for _, x := range sandbox.GetLinux().GetContainers() {
		if w := x.GetWritableLayer(); x.GetAttributes().GetId() == c.container.ID && w != nil {
			k.Rootfs = part(node, w.GetUsedBytes().GetValue(), w.GetInodesUsed().GetValue())
		}
	}
	if s.cfg.Logs != nil && filepath.IsAbs(c.container.LogPath) {
		bytes, inodes := s.cfg.Logs(filepath.Dir(c.container.LogPath))
		k.Logs = part(node, bytes, inodes)
	}
}

// part is a part of a file system.
func part(of *stats.FsStats, bytes, inodes uint64) *stats.FsStats {
	return &stats.FsStats{
		Time: metav1.Now(), AvailableBytes: of.AvailableBytes, CapacityBytes: of.CapacityBytes, InodesFree: of.InodesFree, Inodes: of.Inodes,
		UsedBytes: &bytes, InodesUsed: &inodes,
	}
}

// ephemeral is what a pod's local volumes take; its containers are added.
func ephemeral(node *stats.FsStats, volumes []stats.VolumeStats, pod *corev1.Pod) *stats.FsStats {
	if node == nil {
		return nil
	}
	out := part(node, 0, 0)
	for i := range volumes {
		for j := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[j]
			if v.Name == volumes[i].Name && v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
				add(out, &volumes[i].FsStats)
			}
		}
	}
	return out
}

func add(to, what *stats.FsStats) {
	if to == nil || what == nil {
		return
	}
	*to.UsedBytes += *what.UsedBytes
	*to.InodesUsed += *what.InodesUsed
}

func network(sb *runtimeapi.PodSandboxStats) *stats.NetworkStats {
	links := interfaces(sb)
	if len(links) == 0 {
		return nil
	}
	out := &stats.NetworkStats{Time: metav1.Now()}
	number := func(v *runtimeapi.UInt64Value) *uint64 {
		if v == nil {
			return nil
		}
		return &v.Value
	}
	for _, l := range links {
		out.Interfaces = append(out.Interfaces, stats.InterfaceStats{
			Name: l.GetName(), RxBytes: number(l.GetRxBytes()), RxErrors: number(l.GetRxErrors()), TxBytes: number(l.GetTxBytes()), TxErrors: number(l.GetTxErrors()),
		})
	}
	out.InterfaceStats = out.Interfaces[0]
	return out
}

// nodeNetwork are the machine's own links: pods' ends of theirs, and the loopback, say nothing about the machine.
func nodeNetwork() *stats.NetworkStats {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil
	}
	return parseNetwork(string(b), func(link string) bool {
		_, err := os.Lstat(filepath.Join("/sys/class/net", link, "brport")) // in a bridge: the other end is a pod's
		return err == nil
	})
}

// parseNetwork reads /proc/net/dev, without the links that aren't the machine's own. The first one stands for all, or eth0
// where there is one.
func parseNetwork(text string, others func(link string) bool) *stats.NetworkStats {
	out := &stats.NetworkStats{Time: metav1.Now()}
	for _, l := range cgroup.ParseLinks(text) {
		if others(l.Name) {
			continue
		}
		link := stats.InterfaceStats{Name: l.Name, RxBytes: &l.RxBytes, RxErrors: &l.RxErrors, TxBytes: &l.TxBytes, TxErrors: &l.TxErrors}
		if len(out.Interfaces) == 0 || l.Name == "eth0" {
			out.InterfaceStats = link
		}
		out.Interfaces = append(out.Interfaces, link)
	}
	if len(out.Interfaces) == 0 {
		return nil
	}
	return out
}

// rlimit is how many processes the machine may have, and has.
func rlimit() *stats.RlimitStats {
	out := &stats.RlimitStats{Time: metav1.Now()}
	if b, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
			out.MaxPID = &n
		}
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 3 {
			_, all, _ := strings.Cut(f[3], "/")
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				out.NumOfRunningProcesses = &n
			}
		}
	}
	return out
}
