package cri

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func onPodNetwork(c *api.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Network = api.NamespaceMode_POD
	c.Hostname = "my-host"
}

func (p *pod) status() *api.PodSandboxStatus {
	p.t.Helper()
	reply, err := p.n.rt.PodSandboxStatus(testContext(p.t), &api.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		p.t.Fatal(err)
	}
	return reply.Status
}

func TestPodNetwork(t *testing.T) {
	p := newPod(t, onPodNetwork, func(c *api.PodSandboxConfig) {
		c.DnsConfig = &api.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"a.example", "b.example"}, Options: []string{"ndots:5"}}
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.core.somaxconn": "300"}
	})
	ip, err := netip.ParseAddr(p.status().Network.Ip)
	if err != nil {
		t.Fatalf("pod address: %v", err)
	}
	out := p.output(`hostname; ip -4 addr show eth0 | grep -o 'inet [0-9.]*'; cat /etc/resolv.conf /etc/hostname
		cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_unprivileged_port_start
		ip link show lo | grep -c UP; grep -c shm /proc/mounts; df /dev/shm | tail -1 | awk '{print $2}'`)
	want := "my-host\ninet " + ip.String() + "\nsearch a.example b.example\nnameserver 10.43.0.10\noptions ndots:5\nmy-host\n1\n300\n0\n1\n1\n65536\n"
	if out != want {
		t.Errorf("the pod sees\n%s\nwant\n%s", out, want)
	}
	other := newPod(t, onPodNetwork)
	server := p.run("while :; do echo pong | nc -l -p 7000; done")
	eventually(t, "an answer from pod to pod", func() bool {
		return strings.Contains(other.output("nc -w 1 "+ip.String()+" 7000 </dev/null"), "pong")
	})
	_ = server
	if _, err := shared.rt.StopPodSandbox(testContext(t), &api.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		t.Fatal(err)
	}
	if st := p.status(); st.State != api.PodSandboxState_SANDBOX_NOTREADY || st.Network.Ip != "" {
		t.Errorf("after stop: %v", st)
	}
}

func TestHostPort(t *testing.T) {
	p := newPod(t, onPodNetwork, func(c *api.PodSandboxConfig) {
		c.PortMappings = []*api.PortMapping{{Protocol: api.Protocol_TCP, ContainerPort: 80, HostPort: 18080}}
	})
	p.run("while :; do echo hello | nc -l -p 80; done")
	if shared.kind == "other" {
		t.Skip("needs the address of the network's bridge")
	}
	// From another pod to the node's bridge address, as from another machine.
	client := newPod(t, onPodNetwork)
	eventually(t, "an answer through the host port", func() bool {
		return strings.Contains(client.output("nc -w 1 10.99.0.1 18080 </dev/null"), "hello")
	})
	eventually(t, "an answer on the node's loopback", func() bool {
		conn, err := shared.dial(context.Background(), "tcp", "127.0.0.1:18080")
		if err != nil {
			return false
		}
		defer conn.Close()
		if half, ok := conn.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
		answer, _ := io.ReadAll(conn)
		return string(answer) == "hello\n"
	})
}

func TestNamespaces(t *testing.T) {
	p := newPod(t, func(c *api.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = api.NamespaceMode_POD
	})
	pidMode := func(mode api.NamespaceMode, target string) func(*api.ContainerConfig) {
		return func(c *api.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions.Pid, c.Linux.SecurityContext.NamespaceOptions.TargetId = mode, target
		}
	}
	first := p.run("sleep 4321", pidMode(api.NamespaceMode_POD, ""))
	if out := p.output("ps", pidMode(api.NamespaceMode_POD, "")); !strings.Contains(out, "sleep 4321") || strings.Contains(out, "    1 root      0:00 ps") {
		t.Errorf("a shared PID namespace shows\n%s", out)
	}
	if out := p.output("ps", pidMode(api.NamespaceMode_CONTAINER, "")); strings.Contains(out, "4321") {
		t.Errorf("a namespace of its own shows\n%s", out)
	}
	if out := p.output("ps", pidMode(api.NamespaceMode_NODE, "")); !strings.Contains(out, "4321") || !strings.Contains(out, "mote-hold") && shared.kind == "mote" {
		t.Errorf("the node's namespace shows\n%s", out)
	}
	own := p.run("sleep 8765", pidMode(api.NamespaceMode_CONTAINER, ""))
	if out := p.output("ps", pidMode(api.NamespaceMode_TARGET, own.id)); !strings.Contains(out, "sleep 8765") {
		t.Errorf("the target's namespace shows\n%s", out)
	}
	// A container in a shared namespace leaves no process behind.
	spawner := p.run("sleep 9999 & exit 0", pidMode(api.NamespaceMode_POD, ""))
	spawner.wait()
	if out, _, _ := first.exec("ps"); strings.Contains(out, "9999") {
		t.Errorf("a dead container's process lives on:\n%s", out)
	}
}
