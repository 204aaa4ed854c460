package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func pod(p *corev1.Pod) field.ErrorList {
	l := &list{}
	annotations(l, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	podSpec(l, &p.Spec, field.NewPath("spec"))
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil { // not of templates: they may say -1, which pods get as 1
		l.notNegative(field.NewPath("spec", "terminationGracePeriodSeconds"), *g)
	}
	if len(p.Spec.EphemeralContainers) > 0 {
		l.add(field.Forbidden(field.NewPath("spec", "ephemeralContainers"), "cannot be set on create"))
	}
	return l.ErrorList
}

func annotations(l *list, a map[string]string, spec *corev1.PodSpec, p *field.Path) {
	if v, ok := a[corev1.MirrorPodAnnotationKey]; ok && spec.NodeName == "" {
		l.add(field.Invalid(p.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
}

// podTemplate checks a workload's template: the pod, and what only templates may not have.
func podTemplate(l *list, t *corev1.PodTemplateSpec, p *field.Path) {
	l.addAll(metav1validation.ValidateLabels(t.Labels, p.Child("labels")))
	l.addAll(apivalidation.ValidateAnnotations(t.Annotations, p.Child("annotations")))
	podSpec(l, &t.Spec, p.Child("spec"))
	if len(t.Spec.EphemeralContainers) > 0 {
		l.add(field.Forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
}

func podSpec(l *list, spec *corev1.PodSpec, p *field.Path) {
	s := &podScope{spec: spec, volumes: map[string]*corev1.Volume{}, names: unique[string]{}, grace: spec.TerminationGracePeriodSeconds}
	volumes(l, s, p.Child("volumes"))
	containers(l, s, p)
	oneOf(l, p.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	oneOf(l, p.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	dnsConfig(l, spec, p.Child("dnsConfig"))
	l.addAll(metav1validation.ValidateLabels(spec.NodeSelector, p.Child("nodeSelector")))
	podSecurityContext(l, spec, p.Child("securityContext"))
	hostUsers(l, spec, p)
	hostnameOverride(l, spec, p)
	fileKeyVolumes(l, spec, p)
	affinity(l, spec.Affinity, p.Child("affinity"))
	tolerations(l, spec.Tolerations, p.Child("tolerations"))
	topologySpread(l, spec.TopologySpreadConstraints, p.Child("topologySpreadConstraints"))
	hostAliases(l, spec.HostAliases, p.Child("hostAliases"))
	for name, v := range map[string]string{"serviceAccountName": spec.ServiceAccountName, "nodeName": spec.NodeName, "priorityClassName": spec.PriorityClassName} {
		if v != "" {
			l.dnsSubdomain(p.Child(name), v)
		}
	}
	if spec.Hostname != "" {
		l.dnsLabel(p.Child("hostname"), spec.Hostname)
	}
	if spec.Subdomain != "" {
		l.dnsLabel(p.Child("subdomain"), spec.Subdomain)
	}
	if spec.RuntimeClassName != nil {
		l.dnsSubdomain(p.Child("runtimeClassName"), *spec.RuntimeClassName)
	}
	if spec.SchedulerName == "" {
		l.required(p.Child("schedulerName"), "")
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > 1<<31-1) {
		l.add(field.Invalid(p.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	if spec.PreemptionPolicy != nil {
		oneOf(l, p.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	for i, g := range spec.ReadinessGates {
		l.qualifiedName(p.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType))
	}
	gates := unique[string]{}
	for i, g := range spec.SchedulingGates {
		l.qualifiedName(p.Child("schedulingGates").Index(i), g.Name)
		gates.check(l, p.Child("schedulingGates").Index(i), g.Name, g.Name)
	}
	if len(spec.SchedulingGates) > 0 && spec.NodeName != "" {
		l.add(field.Forbidden(p.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	resourceNames(l, spec.Overhead, p.Child("overhead"))
	if spec.Resources != nil {
		requirements(l, spec.Resources, p.Child("resources"))
	}
	if spec.OS != nil && spec.OS.Name == "" {
		l.required(p.Child("os", "name"), "")
	} else if spec.OS != nil {
		oneOf(l, p.Child("os"), spec.OS.Name, corev1.Linux, corev1.Windows)
	}
	claimRefs(l, spec.ResourceClaims, p.Child("resourceClaims"))
}

func claimRefs(l *list, all []corev1.PodResourceClaim, p *field.Path) {
	names := unique[string]{}
	for i, c := range all {
		ip := p.Index(i)
		if c.Name == "" {
			l.required(ip.Child("name"), "")
		} else {
			l.dnsLabel(ip.Child("name"), c.Name)
			names.check(l, ip.Child("name"), c.Name, c.Name)
		}
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			l.add(field.Invalid(ip, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			l.add(field.Invalid(ip, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := c.ResourceClaimName; n != nil {
			l.dnsSubdomain(ip.Child("resourceClaimName"), *n)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			l.dnsSubdomain(ip.Child("resourceClaimTemplateName"), *n)
		}
	}
}

func dnsConfig(l *list, spec *corev1.PodSpec, p *field.Path) {
	c := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone && (c == nil || len(c.Nameservers) == 0) {
		if c == nil {
			l.required(p, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", corev1.DNSNone))
		} else {
			l.required(p.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone))
		}
	}
	if c == nil {
		return
	}
	if len(c.Nameservers) > 3 {
		l.add(field.Invalid(p.Child("nameservers"), c.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, n := range c.Nameservers {
		l.ip(p.Child("nameservers").Index(i), n)
	}
	if len(c.Searches) > 32 {
		l.add(field.Invalid(p.Child("searches"), c.Searches, "must not have more than 32 search paths"))
	}
	if n := len(strings.Join(c.Searches, " ")); n > 2048 {
		l.add(field.Invalid(p.Child("searches"), c.Searches, "must not have more than 2048 characters (including spaces) in the search list"))
	}
	for i, s := range c.Searches {
		if s != "." {
			l.messages(p.Child("searches").Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(s, ".")))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			l.required(p.Child("options").Index(i), "must not be empty")
		}
	}
}

func podSecurityContext(l *list, spec *corev1.PodSpec, p *field.Path) {
	sc := spec.SecurityContext
	if sc == nil {
		return
	}
	if sc.RunAsUser != nil {
		l.messages(p.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))
	}
	if sc.RunAsGroup != nil {
		l.messages(p.Child("runAsGroup"), *sc.RunAsGroup, validation.IsValidGroupID(*sc.RunAsGroup))
	}
	if sc.FSGroup != nil {
		l.messages(p.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))
	}
	for i, g := range sc.SupplementalGroups {
		l.messages(p.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))
	}
	if sc.SupplementalGroupsPolicy != nil {
		oneOf(l, p.Child("supplementalGroupsPolicy"), *sc.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	}
	if sc.FSGroupChangePolicy != nil {
		oneOf(l, p.Child("fsGroupChangePolicy"), *sc.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && spec.HostPID {
		l.add(field.Invalid(field.NewPath("spec", "shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	seccomp(l, sc.SeccompProfile, p.Child("seccompProfile"))
	appArmor(l, sc.AppArmorProfile, p.Child("appArmorProfile"))
	names := unique[string]{}
	for i, s := range sc.Sysctls {
		ip := p.Child("sysctls").Index(i)
		switch name := strings.ReplaceAll(s.Name, "/", "."); {
		case s.Name == "":
			l.required(ip.Child("name"), "")
		case !validSysctl(s.Name):
			l.add(field.Invalid(ip.Child("name"), s.Name, "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"))
		case spec.HostNetwork && strings.HasPrefix(name, "net."):
			l.add(field.Invalid(ip, s.Name, "may not be specified when 'hostNetwork' is true"))
		case spec.HostIPC && (strings.HasPrefix(name, "fs.mqueue.") || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem"):
			l.add(field.Invalid(ip, s.Name, "may not be specified when 'hostIPC' is true"))
		}
		names.check(l, ip.Child("name"), s.Name, s.Name)
	}
}

func validSysctl(name string) bool {
	if len(name) > 253 {
		return false
	}
	alnum := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '/' }) {
		for i := range len(part) {
			if !alnum(part[i]) && (i == 0 || i == len(part)-1 || part[i] != '-' && part[i] != '_') {
				return false
			}
		}
	}
	sep := func(c byte) bool { return c == '.' || c == '/' }
	for i := range len(name) {
		if sep(name[i]) && (i == 0 || i == len(name)-1 || sep(name[i-1])) {
			return false
		}
	}
	return true
}

func hostAliases(l *list, aliases []corev1.HostAlias, p *field.Path) {
	for i, a := range aliases {
		l.ip(p.Index(i).Child("ip"), a.IP)
		for j, h := range a.Hostnames {
			l.dnsSubdomain(p.Index(i).Child("hostnames").Index(j), h)
		}
	}
}

// podUpdate holds a pod's change against what may change: images, an earlier deadline, more tolerations, fewer gates.
func podUpdate(p, old *corev1.Pod) field.ErrorList {
	l := &list{}
	path := field.NewPath("spec")
	annotations(l, p.Annotations, &p.Spec, field.NewPath("metadata", "annotations"))
	podSpec(l, &p.Spec, path)
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		l.add(field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
		return l.ErrorList
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		l.add(field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
		return l.ErrorList
	}
	if d, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; was != nil && (d == nil || *d > *was) {
		l.add(field.Invalid(path.Child("activeDeadlineSeconds"), d, "must be less than or equal to previous value"))
	}
	gates := sets.New[string]()
	for _, g := range old.Spec.SchedulingGates {
		gates.Insert(g.Name)
	}
	gated := len(old.Spec.SchedulingGates) > 0
	for i, g := range p.Spec.SchedulingGates {
		if !gates.Has(g.Name) {
			l.add(field.Forbidden(path.Child("schedulingGates").Index(i), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	for _, t := range old.Spec.Tolerations {
		if !hasToleration(p.Spec.Tolerations, t) {
			l.add(field.Forbidden(path.Child("tolerations"), "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	// What may differ is put back; what differs then may not.
	rest := p.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.Tolerations = old.Spec.Tolerations
	rest.SchedulingGates = old.Spec.SchedulingGates
	if was := old.Spec.TerminationGracePeriodSeconds; was != nil && *was < 0 && rest.TerminationGracePeriodSeconds != nil && *rest.TerminationGracePeriodSeconds == 1 {
		rest.TerminationGracePeriodSeconds = was
	}
	if gated {
		// A gated pod isn't scheduled yet: where it may go can still be narrowed.
		if tightened(old.Spec.NodeSelector, rest.NodeSelector) {
			rest.NodeSelector = old.Spec.NodeSelector
		}
		rest.Affinity = old.Spec.Affinity
	}
	if !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		l.add(field.Forbidden(path, "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"+diff.Diff(old.Spec, *rest)))
	}
	return l.ErrorList
}

func tightened(old, now map[string]string) bool {
	for k, v := range old {
		if now[k] != v {
			return false
		}
	}
	return true
}

func hasToleration(all []corev1.Toleration, t corev1.Toleration) bool {
	for _, have := range all {
		if have.MatchToleration(&t) {
			return true
		}
	}
	return false
}

func podStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	l := &list{}
	path := field.NewPath("status")
	if old.Spec.NodeName != p.Spec.NodeName {
		l.add(field.Forbidden(path.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" {
		l.dnsSubdomain(path.Child("nominatedNodeName"), n)
	}
	for i, ip := range p.Status.PodIPs {
		if ip.IP != "" {
			l.ip(path.Child("podIPs").Index(i), ip.IP)
		}
	}
	restarted := func(now, was []corev1.ContainerStatus, p *field.Path) {
		if old.Spec.RestartPolicy == corev1.RestartPolicyAlways {
			return
		}
		for _, w := range was {
			if w.State.Terminated == nil || (w.State.Terminated.ExitCode != 0 && old.Spec.RestartPolicy == corev1.RestartPolicyOnFailure) {
				continue
			}
			for _, n := range now {
				if n.Name == w.Name && n.State.Terminated == nil && !restartable(old, n.Name) {
					l.add(field.Forbidden(p.Index(0).Child("state"), "may not be transitioned to non-terminated state"))
				}
			}
		}
	}
	restarted(p.Status.ContainerStatuses, old.Status.ContainerStatuses, path.Child("containerStatuses"))
	return l.ErrorList
}

// restartable reports a container with rules of its own about restarts, or one of a pod that may be restarted as a whole.
func restartable(p *corev1.Pod, name string) bool {
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		}) {
			return true
		}
	}
	for _, c := range p.Spec.Containers {
		if c.Name == name {
			return c.RestartPolicy != nil || len(c.RestartPolicyRules) > 0
		}
	}
	return false
}
