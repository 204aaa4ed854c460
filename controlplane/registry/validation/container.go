package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podScope is what the parts of one pod must agree on.
type podScope struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.Volume
	names   unique[string]
	grace   *int64
}

// containers checks the three lists of containers of a pod.
func containers(l *list, s *podScope, p *field.Path) {
	if len(s.spec.Containers) == 0 {
		l.required(p.Child("containers"), "")
	}
	hostPorts := unique[string]{}
	for i := range s.spec.InitContainers {
		c, ip := &s.spec.InitContainers[i], p.Child("initContainers").Index(i)
		container(l, s, c, ip)
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if sidecar {
			duplicateHostPorts(l, hostPorts, c.Ports, ip)
			continue
		}
		for j, r := range c.ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer {
				l.add(field.Invalid(ip.Child("resizePolicy").Index(j).Child("restartPolicy"), r.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
		for name, set := range map[string]bool{"lifecycle": c.Lifecycle != nil, "livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil, "startupProbe": c.StartupProbe != nil} {
			if set {
				l.add(field.Forbidden(ip.Child(name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	}
	for i := range s.spec.Containers {
		c, cp := &s.spec.Containers[i], p.Child("containers").Index(i)
		container(l, s, c, cp)
		duplicateHostPorts(l, hostPorts, c.Ports, cp)
	}
	for i := range s.spec.EphemeralContainers {
		ephemeralContainer(l, s, &s.spec.EphemeralContainers[i], p.Child("ephemeralContainers").Index(i))
	}
}

func duplicateHostPorts(l *list, seen unique[string], ports []corev1.ContainerPort, p *field.Path) {
	for i, cp := range ports {
		if cp.HostPort != 0 {
			seen.check(l, p.Child("ports").Index(i).Child("hostPort"), fmt.Sprintf("%s/%s/%d", cp.Protocol, cp.HostIP, cp.HostPort), fmt.Sprintf("%s/%s/%d", cp.Protocol, cp.HostIP, cp.HostPort))
		}
	}
}

func container(l *list, s *podScope, c *corev1.Container, p *field.Path) {
	if c.Name == "" {
		l.required(p.Child("name"), "")
	} else {
		l.dnsLabel(p.Child("name"), c.Name)
	}
	s.names.check(l, p.Child("name"), c.Name, c.Name)
	image(l, c.Image, p.Child("image"))
	oneOf(l, p.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	oneOf(l, p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	if c.TerminationMessagePath == "" {
		l.required(p.Child("terminationMessagePath"), "")
	}
	containerPorts(l, c.Ports, s.spec.HostNetwork, p.Child("ports"))
	environment(l, c.Env, p.Child("env"))
	environmentFrom(l, c.EnvFrom, p.Child("envFrom"))
	mounts(l, s, c.VolumeMounts, p.Child("volumeMounts"))
	devices(l, s, c, p.Child("volumeDevices"))
	requirements(l, &c.Resources, p.Child("resources"))
	resizePolicies(l, c.ResizePolicy, p.Child("resizePolicy"))
	lifecycle(l, c.Lifecycle, s.grace, p.Child("lifecycle"))
	probe(l, c.LivenessProbe, p.Child("livenessProbe"))
	probe(l, c.StartupProbe, p.Child("startupProbe"))
	probe(l, c.ReadinessProbe, p.Child("readinessProbe"))
	for name, pr := range map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "startupProbe": c.StartupProbe} {
		if pr != nil && pr.SuccessThreshold != 1 {
			l.add(field.Invalid(p.Child(name, "successThreshold"), pr.SuccessThreshold, "must be 1"))
		}
	}
	if c.ReadinessProbe != nil && c.ReadinessProbe.TerminationGracePeriodSeconds != nil {
		l.add(field.Invalid(p.Child("readinessProbe", "terminationGracePeriodSeconds"), *c.ReadinessProbe.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	containerSecurity(l, c.SecurityContext, p.Child("securityContext"))
	restartPolicy(l, c, p)
}

// The bounds of a container's restart rules.
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func restartPolicy(l *list, c *corev1.Container, p *field.Path) {
	switch {
	case c.RestartPolicy != nil:
		oneOf(l, p.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	case len(c.RestartPolicyRules) > 0:
		l.required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	p = p.Child("restartPolicyRules")
	if n := len(c.RestartPolicyRules); n > maxRestartRules {
		l.add(field.TooMany(p, n, maxRestartRules))
	}
	for i, r := range c.RestartPolicyRules {
		oneOf(l, p.Index(i).Child("action"), r.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		codes := p.Index(i).Child("exitCodes")
		if r.ExitCodes == nil {
			l.required(codes, "must be specified")
			continue
		}
		oneOf(l, codes.Child("operator"), r.ExitCodes.Operator, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > maxExitCodes {
			l.add(field.TooMany(codes.Child("values"), n, maxExitCodes))
		}
	}
}

func resizePolicies(l *list, all []corev1.ContainerResizePolicy, p *field.Path) {
	seen := unique[corev1.ResourceName]{}
	for i, r := range all {
		seen.check(l, p.Index(i), r.ResourceName, r.ResourceName)
		if r.ResourceName == "" {
			l.required(p, "")
		} else {
			oneOf(l, p, r.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		}
		if r.RestartPolicy == "" {
			l.required(p, "")
		} else {
			oneOf(l, p, r.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		}
	}
}

func image(l *list, ref string, p *field.Path) {
	switch {
	case ref == "":
		l.required(p, "")
	case strings.TrimSpace(ref) != ref:
		l.add(field.Invalid(p, ref, "must not have leading or trailing whitespace"))
	}
}

func ephemeralContainer(l *list, s *podScope, e *corev1.EphemeralContainer, p *field.Path) {
	c := corev1.Container(e.EphemeralContainerCommon)
	if c.Name == "" {
		l.required(p.Child("name"), "")
	} else {
		l.dnsLabel(p.Child("name"), c.Name)
	}
	s.names.check(l, p.Child("name"), c.Name, c.Name)
	image(l, c.Image, p.Child("image"))
	if e.TargetContainerName != "" {
		found := false
		for _, list := range [][]corev1.Container{s.spec.Containers, s.spec.InitContainers} {
			for i := range list {
				found = found || list[i].Name == e.TargetContainerName
			}
		}
		if !found {
			l.add(field.NotFound(p.Child("targetContainerName"), e.TargetContainerName))
		}
	}
	for name, set := range map[string]bool{
		"ports": len(c.Ports) > 0, "lifecycle": c.Lifecycle != nil, "livenessProbe": c.LivenessProbe != nil, "readinessProbe": c.ReadinessProbe != nil,
		"startupProbe": c.StartupProbe != nil, "resources": len(c.Resources.Limits)+len(c.Resources.Requests) > 0,
	} {
		if set {
			l.add(field.Forbidden(p.Child(name), "cannot be set for an Ephemeral Container"))
		}
	}
	for i, m := range c.VolumeMounts {
		if m.SubPath != "" {
			l.add(field.Forbidden(p.Child("volumeMounts").Index(i).Child("subPath"), "cannot be set for an Ephemeral Container"))
		}
		if m.SubPathExpr != "" {
			l.add(field.Forbidden(p.Child("volumeMounts").Index(i).Child("subPathExpr"), "cannot be set for an Ephemeral Container"))
		}
	}
	environment(l, c.Env, p.Child("env"))
	environmentFrom(l, c.EnvFrom, p.Child("envFrom"))
	mounts(l, s, c.VolumeMounts, p.Child("volumeMounts"))
	containerSecurity(l, c.SecurityContext, p.Child("securityContext"))
}

func containerPorts(l *list, ports []corev1.ContainerPort, hostNetwork bool, p *field.Path) {
	names := unique[string]{}
	for i, port := range ports {
		ip := p.Index(i)
		if port.Name != "" {
			if msgs := validation.IsValidPortName(port.Name); len(msgs) > 0 {
				l.messages(ip.Child("name"), port.Name, msgs)
			} else {
				names.check(l, ip.Child("name"), port.Name, port.Name)
			}
		}
		if port.ContainerPort == 0 {
			l.required(ip.Child("containerPort"), "")
		} else {
			l.port(ip.Child("containerPort"), port.ContainerPort)
		}
		if port.HostPort != 0 {
			l.port(ip.Child("hostPort"), port.HostPort)
			if hostNetwork && port.HostPort != port.ContainerPort {
				l.add(field.Invalid(ip.Child("hostPort"), port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
		l.protocol(ip.Child("protocol"), port.Protocol)
		if port.HostIP != "" {
			l.ip(ip.Child("hostIP"), port.HostIP)
		}
	}
}

func environment(l *list, env []corev1.EnvVar, p *field.Path) {
	for i, e := range env {
		ip := p.Index(i)
		if e.Name == "" {
			l.required(ip.Child("name"), "")
		} else {
			l.messages(ip.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))
		}
		if e.ValueFrom != nil {
			envSource(l, e, ip.Child("valueFrom"))
		}
	}
}

var envFields = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
	"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")

// podFields are the fields of a pod that have names for selectors and references.
var podFields = envFields.Union(sets.New("metadata.labels", "metadata.annotations", "spec.hostNetwork", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.nominatedNodeName"))

func envSource(l *list, e corev1.EnvVar, p *field.Path) {
	from, n := e.ValueFrom, 0
	if f := from.FieldRef; f != nil {
		n++
		fieldRef(l, f, envFields, p.Child("fieldRef"))
	}
	if r := from.ResourceFieldRef; r != nil {
		n++
		resourceRef(l, r, false, p.Child("resourceFieldRef"))
	}
	if c := from.ConfigMapKeyRef; c != nil {
		n++
		keyRef(l, c.Name, c.Key, p.Child("configMapKeyRef"))
	}
	if s := from.SecretKeyRef; s != nil {
		n++
		keyRef(l, s.Name, s.Key, p.Child("secretKeyRef"))
	}
	if f := from.FileKeyRef; f != nil {
		n++
		for name, v := range map[string]string{"volumeName": f.VolumeName, "path": f.Path, "key": f.Key} {
			if v == "" {
				l.required(p.Child("fileKeyRef", name), "")
			}
		}
	}
	switch {
	case n == 0:
		l.add(field.Invalid(p, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		l.add(field.Invalid(p, "", "may not be specified when `value` is not empty"))
	case n > 1:
		l.add(field.Invalid(p, "", "may not have more than one field specified at a time"))
	}
}

func keyRef(l *list, name, key string, p *field.Path) {
	l.dnsSubdomain(p.Child("name"), name)
	if key == "" {
		l.required(p.Child("key"), "")
	} else {
		l.messages(p.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

func fieldRef(l *list, f *corev1.ObjectFieldSelector, allowed sets.Set[string], p *field.Path) {
	if f.APIVersion == "" {
		l.required(p.Child("apiVersion"), "")
		return
	}
	if f.FieldPath == "" {
		l.required(p.Child("fieldPath"), "")
		return
	}
	if f.APIVersion != "v1" {
		l.add(field.Invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: unsupported pod version: "+f.APIVersion))
		return
	}
	base, key, subscript := strings.Cut(strings.TrimSuffix(f.FieldPath, "']"), "['")
	if subscript && (base == "metadata.annotations" || base == "metadata.labels") {
		name := key
		if base == "metadata.annotations" {
			name = strings.ToLower(key)
		}
		l.qualifiedName(p, name)
		return
	}
	if !podFields.Has(f.FieldPath) {
		l.add(field.Invalid(p.Child("fieldPath"), f.FieldPath, "error converting fieldPath: field label not supported: "+f.FieldPath))
		return
	}
	if !allowed.Has(f.FieldPath) {
		l.add(field.NotSupported(p.Child("fieldPath"), f.FieldPath, sets.List(allowed)))
	}
}

func resourceRef(l *list, r *corev1.ResourceFieldSelector, inVolume bool, p *field.Path) {
	if inVolume && r.ContainerName == "" {
		l.required(p.Child("containerName"), "")
	}
	what := r.Resource
	if what == "" {
		l.required(p.Child("resource"), "")
		return
	}
	_, name, _ := strings.Cut(what, ".")
	if !(strings.HasPrefix(what, "limits.") || strings.HasPrefix(what, "requests.")) ||
		!(standardContainerResources.Has(corev1.ResourceName(name)) || hugePages(corev1.ResourceName(name))) {
		l.add(field.NotSupported(p.Child("resource"), what, []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}))
		return
	}
	divisors := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if name == "cpu" {
		divisors = []string{"1m", "1"}
	}
	if d := r.Divisor.String(); d != "0" {
		oneOf(l, p.Child("divisor"), d, divisors...)
	}
}

func environmentFrom(l *list, from []corev1.EnvFromSource, p *field.Path) {
	for i, e := range from {
		ip := p.Index(i)
		if e.Prefix != "" {
			l.messages(ip.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName(e.Prefix))
		}
		switch {
		case e.ConfigMapRef != nil && e.SecretRef != nil:
			l.add(field.Invalid(ip, "", "may not have more than one field specified at a time"))
		case e.ConfigMapRef != nil:
			reference(l, e.ConfigMapRef.Name, ip.Child("configMapRef", "name"))
		case e.SecretRef != nil:
			reference(l, e.SecretRef.Name, ip.Child("secretRef", "name"))
		default:
			l.add(field.Invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
}

// reference checks the name of another object.
func reference(l *list, name string, p *field.Path) {
	if name == "" {
		l.required(p, "")
		return
	}
	l.dnsSubdomain(p, name)
}

func mounts(l *list, s *podScope, ms []corev1.VolumeMount, p *field.Path) {
	places := unique[string]{}
	for i, m := range ms {
		ip := p.Index(i)
		if m.Name == "" {
			l.required(ip.Child("name"), "")
		}
		if s.volumes[m.Name] == nil {
			l.add(field.NotFound(ip.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			l.required(ip.Child("mountPath"), "")
		} else if strings.Contains(m.MountPath, ":") {
			l.add(field.Invalid(ip.Child("mountPath"), m.MountPath, "must not contain ':'"))
		}
		if places[m.MountPath] {
			l.add(field.Invalid(ip.Child("mountPath"), m.MountPath, "must be unique"))
		}
		places[m.MountPath] = true
		// From here on upstream's field paths have no index; people and programs know them so.
		if m.SubPath != "" {
			l.relative(p.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				l.add(field.Invalid(p.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			l.relative(p.Child("subPathExpr"), m.SubPathExpr)
		}
		if m.MountPropagation != nil {
			oneOf(l, p.Child("mountPropagation"), *m.MountPropagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
		}
		if m.RecursiveReadOnly != nil {
			oneOf(l, p.Child("recursiveReadOnly"), *m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
			if *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && !m.ReadOnly {
				l.add(field.Forbidden(p.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
			}
			if mp := m.MountPropagation; *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && mp != nil && *mp != corev1.MountPropagationNone {
				l.add(field.Forbidden(p.Child("recursiveReadOnly"), "may only be specified when mountPropagation is None or not specified"))
			}
		}
	}
}

func devices(l *list, s *podScope, c *corev1.Container, p *field.Path) {
	paths, names := unique[string]{}, unique[string]{}
	for i, d := range c.VolumeDevices {
		ip := p.Index(i)
		if d.Name == "" {
			l.required(ip.Child("name"), "")
		}
		if v := s.volumes[d.Name]; v == nil {
			l.add(field.NotFound(ip.Child("name"), d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			l.add(field.Invalid(ip.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		if d.DevicePath == "" {
			l.required(ip.Child("devicePath"), "")
		} else {
			if slices.Contains(strings.Split(d.DevicePath, "/"), "..") {
				l.add(field.Invalid(ip.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
			}
			if paths[d.DevicePath] {
				l.add(field.Invalid(ip.Child("devicePath"), d.DevicePath, "must be unique"))
			}
			paths[d.DevicePath] = true
		}
		if names[d.Name] {
			l.add(field.Invalid(ip.Child("name"), d.Name, "must be unique"))
		}
		names[d.Name] = true
	}
}
