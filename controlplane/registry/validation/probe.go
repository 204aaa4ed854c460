package validation

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func probe(l *list, pr *corev1.Probe, p *field.Path) {
	if pr == nil {
		return
	}
	n := handlers(l, pr.Exec, pr.HTTPGet, pr.TCPSocket, p)
	if pr.GRPC != nil {
		n++
		l.port(p.Child("grpc", "port"), pr.GRPC.Port)
	}
	oneHandler(l, n, p)
	l.notNegative(p.Child("initialDelaySeconds"), int64(pr.InitialDelaySeconds))
	l.notNegative(p.Child("timeoutSeconds"), int64(pr.TimeoutSeconds))
	l.notNegative(p.Child("periodSeconds"), int64(pr.PeriodSeconds))
	l.notNegative(p.Child("successThreshold"), int64(pr.SuccessThreshold))
	l.notNegative(p.Child("failureThreshold"), int64(pr.FailureThreshold))
	if g := pr.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		l.add(field.Invalid(p.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
}

func oneHandler(l *list, n int, p *field.Path) {
	switch {
	case n == 0:
		l.required(p, "must specify a handler type")
	case n > 1:
		l.add(field.Forbidden(p, "may not specify more than 1 handler type"))
	}
}

func handlers(l *list, exec *corev1.ExecAction, get *corev1.HTTPGetAction, tcp *corev1.TCPSocketAction, p *field.Path) (n int) {
	if exec != nil {
		n++
		if len(exec.Command) == 0 {
			l.required(p.Child("exec", "command"), "")
		}
	}
	if get != nil {
		n++
		hp := p.Child("httpGet")
		if get.Path == "" {
			l.required(hp.Child("path"), "")
		}
		l.portRef(hp.Child("port"), get.Port)
		oneOf(l, hp.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
		for _, h := range get.HTTPHeaders {
			l.messages(hp.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))
		}
	}
	if tcp != nil {
		n++
		l.portRef(p.Child("tcpSocket", "port"), tcp.Port)
	}
	return n
}

func lifecycle(l *list, lc *corev1.Lifecycle, grace *int64, p *field.Path) {
	if lc == nil {
		return
	}
	for name, h := range map[string]*corev1.LifecycleHandler{"postStart": lc.PostStart, "preStop": lc.PreStop} {
		if h == nil {
			continue
		}
		hp := p.Child(name)
		n := handlers(l, h.Exec, h.HTTPGet, h.TCPSocket, hp)
		if h.Sleep != nil {
			n++
			switch {
			case h.Sleep.Seconds < 0:
				l.add(field.Invalid(hp.Child("sleep"), h.Sleep.Seconds, "must be non-negative"))
			case grace != nil && h.Sleep.Seconds > *grace:
				l.add(field.Invalid(hp.Child("sleep"), h.Sleep.Seconds, "must be less than or equal to terminationGracePeriodSeconds"))
			}
		}
		oneHandler(l, n, hp)
	}
	if lc.StopSignal != nil && !strings.HasPrefix(string(*lc.StopSignal), "SIG") {
		l.add(field.Invalid(p.Child("stopSignal"), *lc.StopSignal, "must be a signal name such as SIGTERM"))
	}
}

func containerSecurity(l *list, sc *corev1.SecurityContext, p *field.Path) {
	if sc == nil {
		return
	}
	if sc.RunAsUser != nil {
		l.messages(p.Child("runAsUser"), *sc.RunAsUser, validation.IsValidUserID(*sc.RunAsUser))
	}
	if sc.RunAsGroup != nil {
		l.messages(p.Child("runAsGroup"), *sc.RunAsGroup, validation.IsValidGroupID(*sc.RunAsGroup))
	}
	if sc.ProcMount != nil {
		oneOf(l, p.Child("procMount"), *sc.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
	}
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation {
		if sc.Privileged != nil && *sc.Privileged {
			l.add(field.Invalid(p, "", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil {
			for _, c := range sc.Capabilities.Add {
				if c == "CAP_SYS_ADMIN" {
					l.add(field.Invalid(p, "", "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	seccomp(l, sc.SeccompProfile, p.Child("seccompProfile"))
	appArmor(l, sc.AppArmorProfile, p.Child("appArmorProfile"))
}

func seccomp(l *list, s *corev1.SeccompProfile, p *field.Path) {
	if s == nil {
		return
	}
	requiredOneOf(l, p.Child("type"), s.Type, "type is required when seccompProfile is set", corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	localhost(l, s.Type == corev1.SeccompProfileTypeLocalhost, s.LocalhostProfile, p.Child("localhostProfile"))
	if s.LocalhostProfile != nil {
		l.relative(p.Child("localhostProfile"), *s.LocalhostProfile)
	}
}

func appArmor(l *list, a *corev1.AppArmorProfile, p *field.Path) {
	if a == nil {
		return
	}
	requiredOneOf(l, p.Child("type"), a.Type, "type is required when appArmorProfile is set", corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	localhost(l, a.Type == corev1.AppArmorProfileTypeLocalhost, a.LocalhostProfile, p.Child("localhostProfile"))
}

func localhost(l *list, wanted bool, profile *string, p *field.Path) {
	switch {
	case wanted && (profile == nil || strings.TrimSpace(*profile) == ""):
		l.required(p, "must be set when type is Localhost")
	case !wanted && profile != nil:
		l.add(field.Invalid(p, *profile, "can only be set when type is Localhost"))
	}
}
