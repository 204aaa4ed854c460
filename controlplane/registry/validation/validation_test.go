package validation

import (
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mote-edge/mote/controlplane/registry/defaults"
)

func goodPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}
	if change != nil {
		change(p)
	}
	defaults.Pod(p)
	return p
}

func qty(s string) resource.Quantity { return resource.MustParse(s) }

// expect compares errors by their text: field path and reason are the promise.
func expect(t *testing.T, title string, got []string, want string) {
	t.Helper()
	all := strings.Join(got, "\n")
	if want == "" && all != "" || want != "" && !strings.Contains(all, want) {
		t.Errorf("%s: %q, want %q", title, all, want)
	}
}

func texts(obj, old runtime.Object) (out []string) {
	errs := Create(obj)
	if old != nil {
		errs = Update(obj, old)
	}
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

func TestPodCreate(t *testing.T) {
	c := func(f func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { f(&p.Spec.Containers[0]) }
	}
	for title, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"plain":         {nil, ""},
		"no containers": {func(p *corev1.Pod) { p.Spec.Containers = nil }, "spec.containers: Required value"},
		"bad name":      {c(func(c *corev1.Container) { c.Name = "Bad_Name" }), "spec.containers[0].name: Invalid value"},
		"same name":     {func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "c", Image: "x"}} }, `Duplicate value: "c"`},
		"no image":      {c(func(c *corev1.Container) { c.Image = "" }), "spec.containers[0].image: Required value"},
		"spaced image":  {c(func(c *corev1.Container) { c.Image = " x" }), "must not have leading or trailing whitespace"},
		"unknown mount": {c(func(c *corev1.Container) { c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}} }), "spec.containers[0].volumeMounts[0].name: Not found: \"v\""},
		"request above limit": {c(func(c *corev1.Container) {
			c.Resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": qty("2")}, Limits: corev1.ResourceList{"cpu": qty("1")}}
		}), "must be less than or equal to cpu limit of 1"},
		"extended without limit": {c(func(c *corev1.Container) { c.Resources.Requests = corev1.ResourceList{"example.com/x": qty("1")} }), "Limit must be set for non overcommitable resources"},
		"two handlers": {c(func(c *corev1.Container) {
			c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}, TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}
		}), "may not specify more than 1 handler type"},
		"env from nowhere": {c(func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{}}} }), "must specify one of"},
		"env field": {c(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['a']"}}}}
		}), ""},
		"env bad field": {c(func(c *corev1.Container) {
			c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.x"}}}}
		}), "Invalid value: \"spec.x\""},
		"volume twice": {func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v"}, {Name: "v"}} }, "spec.volumes[1].name: Duplicate value"},
		"two sources": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}}
		}, "may not specify more than 1 volume type"},
		"subPath up": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", SubPath: "../x"}}
		}, "must not contain '..'"},
		"restart policy": {func(p *corev1.Pod) { p.Spec.RestartPolicy = "Sometimes" }, "spec.restartPolicy: Unsupported value: \"Sometimes\""},
		"rules without a policy": {c(func(c *corev1.Container) {
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{1}}}}
		}), "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"},
		"rules": {c(func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{
				{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{1}}},
				{Action: "RestartAllContainers", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "NotIn", Values: []int32{0}}},
			}
		}), ""},
		"rule with another action": {c(func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Reboot", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In"}}}
		}), `spec.containers[0].restartPolicyRules[0].action: Unsupported value: "Reboot"`},
		"rule without codes": {c(func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart"}}
		}), "spec.containers[0].restartPolicyRules[0].exitCodes: Required value: must be specified"},
		"rule with another operator": {c(func(c *corev1.Container) {
			c.RestartPolicy = new(corev1.ContainerRestartPolicyNever)
			c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "Eq"}}}
		}), `exitCodes.operator: Unsupported value: "Eq"`},
		"container restart policy": {
			c(func(c *corev1.Container) { c.RestartPolicy = new(corev1.ContainerRestartPolicy("Sometimes")) }),
			`spec.containers[0].restartPolicy: Unsupported value: "Sometimes"`,
		},
		"init probe": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x", LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}}}
		}, "may not be set for init containers without restartPolicy=Always"},
		"init restarted for a resize": {func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x", ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: "cpu", RestartPolicy: corev1.RestartContainer}}}}
		}, "spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\""},
		"sysctl": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}}
		}, ""},
		"bad sysctl": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "foo-", Value: "1"}}}
		}, "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\""},
		"negative grace, as old clients": {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = new(int64(-1)) }, ""},
		"dns none":                       {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, "must provide `dnsConfig`"},
		"toleration":                     {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: "Equal"}} }, "operator must be Exists when `key` is empty"},
		"host port unlike": {func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
		}, "must match `containerPort`"},
		"token too short": {func(p *corev1.Pod) {
			s := int64(60)
			p.Spec.Volumes = []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", ExpirationSeconds: &s}}}}}}}
		}, "may not specify a duration less than 10 minutes"},
	} {
		expect(t, title, texts(goodPod(tc.change), nil), tc.want)
	}
}

func TestPodUpdate(t *testing.T) {
	for title, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"image":           {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "app:2" }, ""},
		"toleration more": {func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: "Exists"}} }, ""},
		"command":         {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"x"} }, "pod updates may not change fields other than"},
		"node":            {func(p *corev1.Pod) { p.Spec.NodeName = "n" }, "pod updates may not change fields other than"},
		"container more": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
		}, "may not add or remove containers"},
		"new gate": {func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, "only deletion is allowed"},
	} {
		old := goodPod(nil)
		expect(t, title, texts(goodPod(tc.change), old), tc.want)
	}
}

func TestService(t *testing.T) {
	svc := func(f func(*corev1.Service)) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
		f(s)
		defaults.Service(s)
		return s
	}
	for title, tc := range map[string]struct {
		change func(*corev1.Service)
		want   string
	}{
		"plain":         {func(*corev1.Service) {}, ""},
		"no ports":      {func(s *corev1.Service) { s.Spec.Ports = nil }, "spec.ports: Required value"},
		"headless":      {func(s *corev1.Service) { s.Spec.ClusterIP = "None"; s.Spec.Ports = nil }, ""},
		"two unnamed":   {func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81}) }, "spec.ports[0].name: Required value"},
		"external name": {func(s *corev1.Service) { s.Spec.Type = "ExternalName"; s.Spec.Ports = nil }, "spec.externalName: Required value"},
		"port 0":        {func(s *corev1.Service) { s.Spec.Ports[0].Port = 0 }, "spec.ports[0].port: Invalid value: 0"},
		"node port":     {func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, "may not be used when `type` is 'ClusterIP'"},
		"source ranges": {func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8"} }, "may only be used when `type` is 'LoadBalancer'"},
	} {
		expect(t, title, texts(svc(tc.change), nil), tc.want)
	}
}

func TestWorkloads(t *testing.T) {
	tmpl := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: goodPod(nil).Spec}
	d := func(f func(*appsv1.Deployment)) *appsv1.Deployment {
		d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}, Template: *tmpl.DeepCopy()}}
		f(d)
		defaults.Deployment(d)
		return d
	}
	zero := intstr.FromInt32(0)
	for title, tc := range map[string]struct {
		obj, old runtime.Object
		want     string
	}{
		"deployment":   {d(func(*appsv1.Deployment) {}), nil, ""},
		"no selector":  {d(func(d *appsv1.Deployment) { d.Spec.Selector = nil }), nil, "spec.selector: Required value"},
		"not its pods": {d(func(d *appsv1.Deployment) { d.Spec.Template.Labels = nil }), nil, "`selector` does not match template `labels`"},
		"restart":      {d(func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = "Never" }), nil, "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""},
		"stuck": {d(func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &zero, MaxUnavailable: &zero}
		}), nil, "may not be 0 when `maxSurge` is 0"},
		"new selector":   {d(func(d *appsv1.Deployment) { d.Spec.Selector.MatchLabels["a"] = "c"; d.Spec.Template.Labels["a"] = "c" }), d(func(*appsv1.Deployment) {}), "spec.selector: Invalid value"},
		"negative grace": {d(func(d *appsv1.Deployment) { d.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(-1)) }), nil, ""},
		"cron":           {&batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "every day"}}, nil, "spec.schedule: Invalid value"},
		"role":           {&rbacv1.Role{Rules: []rbacv1.PolicyRule{{Resources: []string{"pods"}, APIGroups: []string{""}}}}, nil, "rules[0].verbs: Required value"},
		"role ref":       {&rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "b"}}, &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "a"}}, "cannot change roleRef"},
		"secret":         {&corev1.Secret{Type: corev1.SecretTypeTLS}, nil, "data[tls.crt]: Required value"},
		"config key":     {&corev1.ConfigMap{Data: map[string]string{"a/b": ""}}, nil, "data[a/b]: Invalid value"},
	} {
		expect(t, title, texts(tc.obj, tc.old), tc.want)
	}
}

func TestImmutableData(t *testing.T) {
	yes := true
	old := &corev1.ConfigMap{Immutable: &yes, Data: map[string]string{"a": "1"}}
	expect(t, "changed", texts(&corev1.ConfigMap{Immutable: &yes, Data: map[string]string{"a": "2"}}, old), "data: Forbidden: field is immutable when `immutable` is set")
	expect(t, "unset", texts(&corev1.ConfigMap{Data: map[string]string{"a": "1"}}, old), "immutable: Forbidden")
	expect(t, "labels only", texts(old, old), "")
}

func TestJobIndexes(t *testing.T) {
	for list, ok := range map[string]bool{"0,2-4": true, "4": true, "5": false, "3-2": false, "1,1": false, "x": false} {
		if err := indexList(list, 5); (err == nil) != ok {
			t.Errorf("%s: %v", list, err)
		}
	}
}

func TestMatchConditionsCompile(t *testing.T) {
	check := func(expression string) field.ErrorList {
		l := &list{}
		matchConditions(l, []admissionregistrationv1.MatchCondition{{Name: "c", Expression: expression}}, false, field.NewPath("c"))
		return l.ErrorList
	}
	if errs := check("request.userInfo.username != 'admin'"); len(errs) != 0 {
		t.Error(errs)
	}
	if errs := check("object.x ==="); len(errs) != 1 {
		t.Error("nonsense compiled", errs)
	}
}
