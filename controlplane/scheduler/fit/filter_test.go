package fit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func tolerate(key string, op corev1.TolerationOperator, effect corev1.TaintEffect) podOption {
	return spec(func(s *corev1.PodSpec) {
		s.Tolerations = append(s.Tolerations, corev1.Toleration{Key: key, Operator: op, Effect: effect})
	})
}

func hostPorts2(ports ...corev1.ContainerPort) podOption {
	return spec(func(s *corev1.PodSpec) { s.Containers[0].Ports = ports })
}

func sidecar(kv ...string) podOption {
	always := corev1.ContainerRestartPolicyAlways
	return spec(func(s *corev1.PodSpec) {
		s.InitContainers = append(s.InitContainers, corev1.Container{
			RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list(kv...)},
		})
	})
}

func initContainer(kv ...string) podOption {
	return spec(func(s *corev1.PodSpec) {
		s.InitContainers = append(s.InitContainers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(kv...)}})
	})
}

func restartAll(p *corev1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers}}
}

func unschedulable(n *corev1.Node) { n.Spec.Unschedulable = true }

func nodeAffinity(key string, op corev1.NodeSelectorOperator, values ...string) podOption {
	return spec(func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}},
			}}},
		}}
	})
}

func TestFilterOneNode(t *testing.T) {
	const (
		tainted    = "node(s) had untolerated taint(s)"
		affinity   = "node(s) didn't match Pod's node affinity/selector"
		noPort     = "node(s) didn't have free ports for the requested pod ports"
		cordoned   = "node(s) were unschedulable"
		otherNode  = "node(s) didn't match the requested node name"
		noSchedule = corev1.TaintEffectNoSchedule
	)
	port := func(p int32, ip string, proto corev1.Protocol) corev1.ContainerPort {
		return corev1.ContainerPort{ContainerPort: p, HostPort: p, HostIP: ip, Protocol: proto}
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		node *Node
		want string
	}{
		{"an undeclared feature", pod(restartAll), node("a"), "node(s) didn't match Pod's required features"},
		{"a declared feature", pod(restartAll), node("a", func(n *corev1.Node) {
			n.Status.DeclaredFeatures = []string{"FromTheFuture", "RestartAllContainersOnContainerExits"}
		}), ""},
		{"an empty node", pod(requests("cpu", "1")), node("a"), ""},
		{"exactly full", pod(requests("cpu", "4", "memory", "8Gi")), node("a"), ""},
		{"too little cpu left", pod(requests("cpu", "2")), node("a").with(pod(requests("cpu", "2500m"))), "Insufficient cpu"},
		{"everything is named", pod(requests("cpu", "5", "memory", "9Gi", "ephemeral-storage", "11Gi")), node("a"), "Insufficient cpu, Insufficient memory, Insufficient ephemeral-storage"},
		{"no request fits a full node", pod(), node("a").with(pod(requests("cpu", "4"))), ""},
		{"too many pods", pod(), node("a", allocatable("pods", "1")).with(pod()), "Too many pods"},
		{"an extended resource", pod(requests("example.com/dev", "1")), node("a", allocatable("example.com/dev", "1")), ""},
		{"an extended resource that is used up", pod(requests("example.com/dev", "1")), node("a", allocatable("example.com/dev", "1")).with(pod(requests("example.com/dev", "1"))), "Insufficient example.com/dev"},
		{"an extended resource that isn't there", pod(requests("example.com/dev", "1")), node("a"), "Insufficient example.com/dev"},
		{"an init container's request counts alone", pod(requests("cpu", "3"), initContainer("cpu", "4")), node("a"), ""},
		{"an init container that is too big", pod(requests("cpu", "1"), initContainer("cpu", "5")), node("a"), "Insufficient cpu"},
		{"a sidecar's request is added", pod(requests("cpu", "3"), sidecar("cpu", "2")), node("a"), "Insufficient cpu"},
		{"a later init container runs beside the sidecar", pod(sidecar("cpu", "2"), initContainer("cpu", "3")), node("a"), "Insufficient cpu"},
		{"an earlier one doesn't", pod(initContainer("cpu", "3"), sidecar("cpu", "2")), node("a"), ""},
		{"overhead is added", pod(requests("cpu", "4"), spec(func(s *corev1.PodSpec) { s.Overhead = list("cpu", "100m") })), node("a"), "Insufficient cpu"},
		{"pod-level requests replace the sum", pod(requests("cpu", "1"), spec(func(s *corev1.PodSpec) {
			s.Resources = &corev1.ResourceRequirements{Requests: list("cpu", "5")}
		})), node("a"), "Insufficient cpu"},
		{"a resize under way holds the larger amount", pod(requests("cpu", "2")), node("a").with(pod(requests("cpu", "1"), func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{
				Name: "c", AllocatedResources: list("cpu", "3"), Resources: &corev1.ResourceRequirements{Requests: list("cpu", "3")},
			}}
		})), "Insufficient cpu"},

		{"cordoned", pod(), node("a", unschedulable), cordoned},
		{"cordoned but tolerated", pod(tolerate(corev1.TaintNodeUnschedulable, corev1.TolerationOpExists, noSchedule)), node("a", unschedulable), ""},
		{"the named node", pod(spec(func(s *corev1.PodSpec) { s.NodeName = "a" })), node("a"), ""},
		{"another than the named node", pod(spec(func(s *corev1.PodSpec) { s.NodeName = "b" })), node("a"), otherNode},

		{"a taint", pod(), node("a", taint("k", noSchedule)), tainted},
		{"a NoExecute taint", pod(), node("a", taint("k", corev1.TaintEffectNoExecute)), tainted},
		{"a PreferNoSchedule taint is only a preference", pod(), node("a", taint("k", corev1.TaintEffectPreferNoSchedule)), ""},
		{"a tolerated taint", pod(tolerate("k", corev1.TolerationOpExists, noSchedule)), node("a", taint("k", noSchedule)), ""},
		{"a toleration for another effect", pod(tolerate("k", corev1.TolerationOpExists, corev1.TaintEffectNoExecute)), node("a", taint("k", noSchedule)), tainted},
		{"a toleration for everything", pod(tolerate("", corev1.TolerationOpExists, "")), node("a", taint("k", noSchedule), taint("l", corev1.TaintEffectNoExecute)), ""},
		{"one of two taints tolerated", pod(tolerate("k", corev1.TolerationOpExists, "")), node("a", taint("k", noSchedule), taint("l", noSchedule)), tainted},

		{"node selector", pod(spec(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })), node("a", nodeLabel("disk", "ssd")), ""},
		{"node selector that doesn't match", pod(spec(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} })), node("a"), affinity},
		{"affinity In", pod(nodeAffinity("disk", corev1.NodeSelectorOpIn, "ssd", "nvme")), node("a", nodeLabel("disk", "nvme")), ""},
		{"affinity NotIn", pod(nodeAffinity("disk", corev1.NodeSelectorOpNotIn, "hdd")), node("a", nodeLabel("disk", "hdd")), affinity},
		{"affinity NotIn, label missing", pod(nodeAffinity("disk", corev1.NodeSelectorOpNotIn, "hdd")), node("a"), ""},
		{"affinity Exists", pod(nodeAffinity("disk", corev1.NodeSelectorOpExists)), node("a"), affinity},
		{"affinity Gt", pod(nodeAffinity("cores", corev1.NodeSelectorOpGt, "3")), node("a", nodeLabel("cores", "4")), ""},
		{"affinity to a node's name", pod(spec(func(s *corev1.PodSpec) {
			s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}}},
			}}}
		})), node("a"), affinity},

		{"a free host port", pod(hostPorts2(port(80, "", ""))), node("a").with(pod(hostPorts2(port(81, "", "")))), ""},
		{"a taken host port", pod(hostPorts2(port(80, "", ""))), node("a").with(pod(hostPorts2(port(80, "", corev1.ProtocolTCP)))), noPort},
		{"the other protocol", pod(hostPorts2(port(80, "", corev1.ProtocolUDP))), node("a").with(pod(hostPorts2(port(80, "", corev1.ProtocolTCP)))), ""},
		{"another address", pod(hostPorts2(port(80, "127.0.0.1", ""))), node("a").with(pod(hostPorts2(port(80, "127.0.0.2", "")))), ""},
		{"any address is every address", pod(hostPorts2(port(80, "127.0.0.1", ""))), node("a").with(pod(hostPorts2(port(80, "0.0.0.0", "")))), noPort},

		{"resource claims are refused in plain words", pod(spec(func(s *corev1.PodSpec) { s.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}} })), node("a"), "pod has resource claims, which this scheduler does not allocate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdicts(t, c.pod, snapshot(c.node)); got[0] != c.want {
				t.Errorf("reasons = %q, want %q", got[0], c.want)
			}
		})
	}
}

func TestFinalRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		node  *Node
		final bool
	}{
		{"room could be made", pod(requests("cpu", "2")), node("a").with(pod(requests("cpu", "3"))), false},
		{"the node is too small", pod(requests("cpu", "5")), node("a"), true},
		{"a taint stays", pod(), node("a", taint("k", corev1.TaintEffectNoSchedule)), true},
		{"a port could be freed", pod(hostPorts2(corev1.ContainerPort{HostPort: 80})), node("a").with(pod(hostPorts2(corev1.ContainerPort{HostPort: 80}))), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := snapshot(c.node)
			cycle, _ := NewCycle(NewPod(c.pod), s)
			r := cycle.Filter(c.node)
			if !r.Refused() || r.Final != c.final {
				t.Errorf("refusal = %+v, want final %v", r, c.final)
			}
		})
	}
}

func podAffinity(anti bool, terms ...corev1.PodAffinityTerm) podOption {
	return spec(func(s *corev1.PodSpec) {
		if s.Affinity == nil {
			s.Affinity = &corev1.Affinity{}
		}
		if anti {
			s.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
		} else {
			s.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}
		}
	})
}

func byZone(s *metav1.LabelSelector) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: s, TopologyKey: corev1.LabelTopologyZone}
}

func byHost(s *metav1.LabelSelector) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: s, TopologyKey: corev1.LabelHostname}
}

func TestFilterInterPodAffinity(t *testing.T) {
	const (
		no       = "node(s) didn't match pod affinity rules"
		anti     = "node(s) didn't match pod anti-affinity rules"
		existing = "node(s) didn't satisfy existing pods anti-affinity rules"
	)
	db := func(opts ...podOption) *corev1.Pod { return pod(append([]podOption{labeled("app", "db")}, opts...)...) }
	three := func(onA ...*corev1.Pod) *Snapshot {
		return snapshot(node("a", zone("z1")).with(onA...), node("b", zone("z1")), node("c", zone("z2")))
	}
	withNS := func(term corev1.PodAffinityTerm, names ...string) corev1.PodAffinityTerm {
		term.Namespaces = names
		return term
	}
	withNSSelector := func(term corev1.PodAffinityTerm, s *metav1.LabelSelector) corev1.PodAffinityTerm {
		term.NamespaceSelector = s
		return term
	}
	withKeys := func(term corev1.PodAffinityTerm, match, mismatch []string) corev1.PodAffinityTerm {
		term.MatchLabelKeys, term.MismatchLabelKeys = match, mismatch
		return term
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		s    *Snapshot
		want []string
	}{
		{"to a pod, same zone", pod(podAffinity(false, byZone(selector("app", "db")))), three(db()), []string{"", "", no}},
		{"to a pod, same host", pod(podAffinity(false, byHost(selector("app", "db")))), three(db()), []string{"", no, no}},
		{"to nobody", pod(podAffinity(false, byZone(selector("app", "db")))), three(), []string{no, no, no}},
		{"the first of its group", db(podAffinity(false, byZone(selector("app", "db")))), three(), []string{"", "", ""}},
		{"the second of its group", db(podAffinity(false, byZone(selector("app", "db")))), three(db()), []string{"", "", no}},
		{"a pod of another namespace", pod(podAffinity(false, byZone(selector("app", "db")))), three(db(inNamespace("other"))), []string{no, no, no}},
		{"a named namespace", pod(podAffinity(false, withNS(byZone(selector("app", "db")), "other"))), three(db(inNamespace("other"))), []string{"", "", no}},
		{"a selected namespace", pod(podAffinity(false, withNSSelector(byZone(selector("app", "db")), selector("name", "other")))), three(db(inNamespace("other"))), []string{"", "", no}},
		{"all namespaces", pod(podAffinity(false, withNSSelector(byZone(selector("app", "db")), &metav1.LabelSelector{}))), three(db(inNamespace("other"))), []string{"", "", no}},
		{"all terms must hold", pod(podAffinity(false, byZone(selector("app", "db")), byHost(selector("app", "db")))), three(db()), []string{"", no, no}},
		{"a node without the label", pod(podAffinity(false, byZone(selector("app", "db")))), snapshot(node("a").with(db()), node("b", zone("z1")).with(db())), []string{no, ""}},
		{"anti, same zone", pod(podAffinity(true, byZone(selector("app", "db")))), three(db()), []string{anti, anti, ""}},
		{"anti, same host", pod(podAffinity(true, byHost(selector("app", "db")))), three(db()), []string{anti, "", ""}},
		{"anti, one of the terms is enough", pod(podAffinity(true, byHost(selector("app", "x")), byZone(selector("app", "db")))), three(db()), []string{anti, anti, ""}},
		{"an existing pod keeps it away", db(), three(pod(podAffinity(true, byZone(selector("app", "db"))))), []string{existing, existing, ""}},
		{"an existing pod of another namespace doesn't", db(), three(pod(inNamespace("other"), podAffinity(true, byZone(selector("app", "db"))))), []string{"", "", ""}},
		{"matchLabelKeys narrows", pod(labeled("v", "2"), podAffinity(true, withKeys(byZone(selector("app", "db")), []string{"v"}, nil))), three(pod(labeled("app", "db", "v", "1"))), []string{"", "", ""}},
		{"mismatchLabelKeys", pod(labeled("tenant", "x"), podAffinity(true, withKeys(byZone(&metav1.LabelSelector{}), nil, []string{"tenant"}))), three(pod(labeled("tenant", "y"))), []string{anti, anti, ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdicts(t, c.pod, c.s); !same(got, c.want) {
				t.Errorf("reasons = %q, want %q", got, c.want)
			}
		})
	}
}

func spread(key string, skew int32, hard bool, change ...func(*corev1.TopologySpreadConstraint)) podOption {
	c := corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: selector("app", "web")}
	if hard {
		c.WhenUnsatisfiable = corev1.DoNotSchedule
	}
	for _, f := range change {
		f(&c)
	}
	return spec(func(s *corev1.PodSpec) { s.TopologySpreadConstraints = append(s.TopologySpreadConstraints, c) })
}

func TestFilterTopologySpread(t *testing.T) {
	const (
		no      = "node(s) didn't match pod topology spread constraints"
		missing = no + " (missing required label)"
	)
	web := func(opts ...podOption) *corev1.Pod {
		return pod(append([]podOption{labeled("app", "web")}, opts...)...)
	}
	deleting := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		s    *Snapshot
		want []string
	}{
		{"to the emptier zone", web(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a", zone("z1")).with(web()), node("b", zone("z1")), node("c", zone("z2"))), []string{no, no, ""}},
		{"skew of two allows one more", web(spread(corev1.LabelTopologyZone, 2, true)), snapshot(node("a", zone("z1")).with(web()), node("c", zone("z2"))), []string{"", ""}},
		{"a soft one never refuses", web(spread(corev1.LabelTopologyZone, 1, false)), snapshot(node("a", zone("z1")).with(web(), web()), node("c", zone("z2"))), []string{"", ""}},
		{"pods of other namespaces don't count", web(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a", zone("z1")).with(web(inNamespace("x"))), node("c", zone("z2"))), []string{"", ""}},
		{"pods being deleted don't count", web(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a", zone("z1")).with(web(deleting)), node("c", zone("z2"))), []string{"", ""}},
		{"a pod that doesn't match itself", pod(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a", zone("z1")).with(web()), node("c", zone("z2"))), []string{"", ""}},
		{"no label", web(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a"), node("c", zone("z2"))), []string{missing, ""}},
		{"minDomains not reached", web(spread(corev1.LabelTopologyZone, 1, true, func(c *corev1.TopologySpreadConstraint) { three := int32(3); c.MinDomains = &three })), snapshot(node("a", zone("z1")).with(web()), node("c", zone("z2")).with(web())), []string{no, no}},
		{"two constraints", web(spread(corev1.LabelTopologyZone, 1, true), spread(corev1.LabelHostname, 1, true)), snapshot(node("a", zone("z1")).with(web()), node("b", zone("z1")), node("c", zone("z2")).with(web())), []string{no, "", no}},
		{"nodes excluded by the selector don't count", web(spread(corev1.LabelTopologyZone, 1, true), spec(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"x": "y"} })), snapshot(node("a", zone("z1"), nodeLabel("x", "y")).with(web()), node("c", zone("z2"))), []string{"", "node(s) didn't match Pod's node affinity/selector"}},
		{"unless told to", web(spread(corev1.LabelTopologyZone, 1, true, func(c *corev1.TopologySpreadConstraint) {
			p := corev1.NodeInclusionPolicyIgnore
			c.NodeAffinityPolicy = &p
		}), spec(func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"x": "y"} })), snapshot(node("a", zone("z1"), nodeLabel("x", "y")).with(web()), node("c", zone("z2"))), []string{no, "node(s) didn't match Pod's node affinity/selector"}},
		{"tainted nodes count by default", web(spread(corev1.LabelTopologyZone, 1, true)), snapshot(node("a", zone("z1")).with(web()), node("c", zone("z2"), taint("k", corev1.TaintEffectNoSchedule))), []string{no, "node(s) had untolerated taint(s)"}},
		{"and don't if taints are honored", web(spread(corev1.LabelTopologyZone, 1, true, func(c *corev1.TopologySpreadConstraint) {
			p := corev1.NodeInclusionPolicyHonor
			c.NodeTaintsPolicy = &p
		})), snapshot(node("a", zone("z1")).with(web()), node("c", zone("z2"), taint("k", corev1.TaintEffectNoSchedule))), []string{"", "node(s) had untolerated taint(s)"}},
		{"matchLabelKeys", pod(labeled("app", "web", "rev", "2"), spread(corev1.LabelTopologyZone, 1, true, func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"rev"} })), snapshot(node("a", zone("z1")).with(pod(labeled("app", "web", "rev", "1"))), node("c", zone("z2"))), []string{"", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := verdicts(t, c.pod, c.s); !same(got, c.want) {
				t.Errorf("reasons = %q, want %q", got, c.want)
			}
		})
	}
}
