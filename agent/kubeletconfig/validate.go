package kubeletconfig

import (
	"crypto/tls"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/cpuset"

	"github.com/mote-edge/mote/agent/evict"
)

// Validate says what is wrong, one error a field, each with the remedy.
func (c *Configuration) Validate() []error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf(field+": "+format, args...))
	}
	between := func(field string, v, low, high int64) {
		if v < low || v > high {
			wrong(field, "%d is not between %d and %d", v, low, high)
		}
	}
	oneOf := func(field, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			wrong(field, "%q is not one of %q", v, allowed)
		}
	}
	notNegative := func(field string, v int64) {
		if v < 0 {
			wrong(field, "%d is negative", v)
		}
	}
	between("port", int64(c.Port), 1, 65535)
	between("healthzPort", int64(c.HealthzPort), 0, 65535)
	between("oomScoreAdj", int64(c.OOMScoreAdj), -1000, 1000)
	between("imageGCHighThresholdPercent", int64(c.ImageGCHighThresholdPercent), 0, 100)
	between("imageGCLowThresholdPercent", int64(c.ImageGCLowThresholdPercent), 0, 100)
	between("nodeLeaseDurationSeconds", int64(c.NodeLeaseDurationSeconds), 1, math.MaxInt32)
	between("containerLogMaxFiles", int64(c.ContainerLogMaxFiles), 2, math.MaxInt32)
	between("nodeStatusMaxImages", int64(c.NodeStatusMaxImages), -1, math.MaxInt32)
	for field, v := range map[string]int64{
		"maxOpenFiles": c.MaxOpenFiles, "maxPods": int64(c.MaxPods), "podsPerCore": int64(c.PodsPerCore), "eventRecordQPS": int64(c.EventRecordQPS),
		"eventBurst": int64(c.EventBurst), "kubeAPIQPS": int64(c.KubeAPIQPS), "kubeAPIBurst": int64(c.KubeAPIBurst), "evictionMaxPodGracePeriod": int64(c.EvictionMaxGrace),
	} {
		notNegative(field, v)
	}
	for field, ip := range map[string]string{"address": c.Address, "healthzBindAddress": c.HealthzBindAddress} {
		if _, err := netip.ParseAddr(ip); ip != "" && err != nil {
			wrong(field, "%q is not an IP address", ip)
		}
	}
	for _, ip := range c.ClusterDNS {
		if _, err := netip.ParseAddr(ip); err != nil {
			wrong("clusterDNS", "%q is not an IP address", ip)
		}
	}
	for _, p := range [][2]string{{"podLogsDir", c.PodLogsDir}, {"staticPodPath", c.StaticPodPath}, {"cgroupRoot", c.CgroupRoot}} {
		if p[1] != "" && (!filepath.IsAbs(p[1]) || filepath.Clean(p[1]) != p[1]) {
			wrong(p[0], "%q is not an absolute path in its shortest form", p[1])
		}
	}
	if c.ImageGCLowThresholdPercent >= c.ImageGCHighThresholdPercent {
		wrong("imageGCLowThresholdPercent", "%d is not less than imageGCHighThresholdPercent, %d", c.ImageGCLowThresholdPercent, c.ImageGCHighThresholdPercent)
	}
	if a := c.ImageMaximumGCAge.Duration; a != 0 && a <= c.ImageMinimumGCAge.Duration {
		wrong("imageMaximumGCAge", "%v is not longer than imageMinimumGCAge, %v", a, c.ImageMinimumGCAge.Duration)
	}
	if n := c.MaxParallelImagePulls; n != nil && *n < 1 {
		wrong("maxParallelImagePulls", "%d is not positive", *n)
	} else if n != nil && *n > 1 && c.SerializeImagePulls != nil && *c.SerializeImagePulls {
		wrong("maxParallelImagePulls", "%d images can't be pulled at once with serializeImagePulls: true", *n)
	}
	switch p := c.ImagePullCredentialsVerificationPolicy; p {
	case "", "NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify":
		if len(c.PreloadedImagesVerificationAllowlist) > 0 && p != "NeverVerifyAllowlistedImages" {
			wrong("preloadedImagesVerificationAllowlist", "can only be set if imagePullCredentialsVerificationPolicy is NeverVerifyAllowlistedImages")
		}
	default:
		wrong("imagePullCredentialsVerificationPolicy", "%q: use NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify", p)
	}
	if p := c.CPUCFSQuotaPeriod.Duration; p < time.Millisecond || p > time.Second {
		wrong("cpuCFSQuotaPeriod", "%v is not between 1ms and 1s", p)
	}
	if p := c.ContainerLogMonitorInterval.Duration; p < 3*time.Second {
		wrong("containerLogMonitorInterval", "%v is less than 3s", p)
	}
	if _, err := c.LogMaxSize(); err != nil {
		wrong("containerLogMaxSize", "%v", err)
	}
	if m := c.CrashLoopBackOff.MaxContainerRestartPeriod; m != nil && (m.Duration < time.Second || m.Duration > 5*time.Minute) {
		wrong("crashLoopBackOff.maxContainerRestartPeriod", "%v is not between 1s and 300s", m.Duration)
	}
	if n := c.UserNamespaces.IDsPerPod; n != nil && (*n < 65536 || *n%65536 != 0 || *n > math.MaxUint32) {
		wrong("userNamespaces.idsPerPod", "%d is not a multiple of 65536 below 2^32", *n)
	}
	oneOf("memorySwap.swapBehavior", c.MemorySwap.SwapBehavior, "", "NoSwap", "LimitedSwap")
	oneOf("memoryReservationPolicy", c.MemoryReservationPolicy, "", "None", TieredReservation)
	if f := c.MemoryThrottlingFactor; f != nil && (*f <= 0 || *f > 1) {
		wrong("memoryThrottlingFactor", "%v is not above 0 and at most 1", *f)
	}
	oneOf("authorization.mode", c.Authorization.Mode, "AlwaysAllow", "Webhook")
	oneOf("topologyManagerPolicy", c.TopologyManagerPolicy, "none", "best-effort", "restricted", "single-numa-node")
	oneOf("topologyManagerScope", c.TopologyManagerScope, "container", "pod")
	oneOf("memoryManagerPolicy", c.MemoryManagerPolicy, "None", "Static")
	oneOf("cpuManagerPolicy", c.CPUManagerPolicy, "none", "static")
	for _, t := range c.RegisterWithTaints {
		if len(validation.IsQualifiedName(t.Key)) > 0 || t.TimeAdded != nil ||
			t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectPreferNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
			wrong("registerWithTaints", "%s=%s:%s is not a taint: give key, value and the effect NoSchedule, PreferNoSchedule or NoExecute", t.Key, t.Value, t.Effect)
		}
	}
	errs = append(errs, c.validateReserved()...)
	errs = append(errs, c.validateShutdown()...)
	errs = append(errs, c.validateTLS()...)
	if _, err := evict.Thresholds(c.Eviction()); err != nil {
		errs = append(errs, err)
	}
	return append(errs, checkFeatures(c.FeatureGates)...)
}

// Eviction is what the eviction package needs of the configuration.
func (c *Configuration) Eviction() evict.Spec {
	return evict.Spec{
		Hard: c.EvictionHard, Soft: c.EvictionSoft, Grace: c.EvictionSoftGracePeriod, Reclaim: c.EvictionMinimumReclaim, MergeDefaults: c.MergeDefaultEvictionSettings,
	}
}

// LogMaxSize is the bound of one log file in bytes.
func (c *Configuration) LogMaxSize() (int64, error) {
	q, err := resource.ParseQuantity(c.ContainerLogMaxSize)
	if err != nil || q.Value() < 1 {
		return 0, fmt.Errorf("%q is not a size: write it like 10Mi", c.ContainerLogMaxSize)
	}
	return q.Value(), nil
}

func (c *Configuration) validateReserved() []error {
	var errs []error
	for _, m := range []struct {
		field string
		list  map[string]string
	}{{"systemReserved", c.SystemReserved}, {"kubeReserved", c.KubeReserved}} {
		if _, err := reserved(m.field, m.list); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := cpuset.Parse(c.ReservedSystemCPUs); err != nil {
		errs = append(errs, fmt.Errorf("reservedSystemCPUs: %q is not a list of CPUs: write it like 0-1,4", c.ReservedSystemCPUs))
	}
	if c.ReservedSystemCPUs != "" && c.SystemReservedCgroup+c.KubeReservedCgroup != "" {
		errs = append(errs, fmt.Errorf("reservedSystemCPUs: it doesn't go with systemReservedCgroup or kubeReservedCgroup: remove one of them"))
	}
	seen := map[string]bool{}
	for _, e := range c.EnforceNodeAllocatable {
		switch {
		case seen[e]:
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %q is there twice", e))
		case e == "system-reserved" || e == "system-reserved-compressible":
			if c.SystemReservedCgroup == "" {
				errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %s needs systemReservedCgroup", e))
			}
		case e == "kube-reserved" || e == "kube-reserved-compressible":
			if c.KubeReservedCgroup == "" {
				errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %s needs kubeReservedCgroup", e))
			}
		case e == "none" && len(c.EnforceNodeAllocatable) > 1:
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: none stands alone"))
		case e != "pods" && e != "none":
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %q is not one of none, pods, system-reserved, kube-reserved, system-reserved-compressible, kube-reserved-compressible", e))
		}
		seen[e] = true
	}
	for _, of := range []string{"system-reserved", "kube-reserved"} {
		if seen[of] && seen[of+"-compressible"] {
			errs = append(errs, fmt.Errorf("enforceNodeAllocatable: %s and %s-compressible exclude each other", of, of))
		}
	}
	return errs
}

func reserved(field string, list map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, amount := range list {
		switch r := corev1.ResourceName(name); r {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "pid":
			q, err := resource.ParseQuantity(amount)
			if err != nil || q.Sign() < 0 {
				return nil, fmt.Errorf("%s: %s: %q is not an amount", field, name, amount)
			}
			out[r] = q
		default:
			return nil, fmt.Errorf("%s: %q can't be reserved: cpu, memory, ephemeral-storage and pid can", field, name)
		}
	}
	return out, nil
}

// Reserved is what the system and Mote are to have, of a machine with that many CPUs: reservedSystemCPUs, where given,
// says how much CPU.
func (c *Configuration) Reserved() (system, kube corev1.ResourceList) {
	system, _ = reserved("", c.SystemReserved) // they were validated
	kube, _ = reserved("", c.KubeReserved)
	if set, err := cpuset.Parse(c.ReservedSystemCPUs); err == nil && !set.IsEmpty() {
		delete(kube, corev1.ResourceCPU)
		system[corev1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	return system, kube
}

func (c *Configuration) validateShutdown() []error {
	var errs []error
	all, critical := c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration
	if critical > all {
		errs = append(errs, fmt.Errorf("shutdownGracePeriodCriticalPods: %v is longer than shutdownGracePeriod, %v, which it is a part of", critical, all))
	}
	for field, d := range map[string]time.Duration{"shutdownGracePeriod": all, "shutdownGracePeriodCriticalPods": critical} {
		if d < 0 || d > 0 && d < time.Second {
			errs = append(errs, fmt.Errorf("%s: %v is neither 0 nor at least 1s", field, d))
		}
	}
	if len(c.ShutdownGracePeriodByPodPriority) > 0 && all+critical > 0 {
		errs = append(errs, fmt.Errorf("shutdownGracePeriodByPodPriority: it doesn't go with shutdownGracePeriod: remove one of them"))
	}
	for _, p := range c.ShutdownGracePeriodByPodPriority {
		if p.ShutdownGracePeriodSeconds < 0 {
			errs = append(errs, fmt.Errorf("shutdownGracePeriodByPodPriority: priority %d: %d seconds is negative", p.Priority, p.ShutdownGracePeriodSeconds))
		}
	}
	return errs
}

var tlsVersions = map[string]uint16{"VersionTLS10": tls.VersionTLS10, "VersionTLS11": tls.VersionTLS11, "VersionTLS12": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13}

// ServingTLS is how the node API encrypts, in the terms of crypto/tls.
func (c *Configuration) ServingTLS() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tlsVersions[c.TLSMinVersion]}
	if out.MinVersion == 0 {
		return nil, fmt.Errorf("tlsMinVersion: %q is not one of VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13", c.TLSMinVersion)
	}
	for _, name := range c.TLSCipherSuites {
		suites := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
		i := slices.IndexFunc(suites, func(s *tls.CipherSuite) bool { return s.Name == name || s.Name == name+"_SHA256" })
		if i < 0 {
			return nil, fmt.Errorf("tlsCipherSuites: %q is not a cipher suite of Go's crypto/tls: write names like TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", name)
		}
		out.CipherSuites = append(out.CipherSuites, suites[i].ID)
	}
	for _, id := range c.TLSCurvePreferences {
		out.CurvePreferences = append(out.CurvePreferences, tls.CurveID(id))
	}
	return out, nil
}

func (c *Configuration) validateTLS() []error {
	var errs []error
	if _, err := c.ServingTLS(); err != nil {
		errs = append(errs, err)
	}
	if (c.TLSCertFile == "") != (c.TLSPrivateKeyFile == "") {
		errs = append(errs, fmt.Errorf("tlsCertFile: it goes with tlsPrivateKeyFile: give both or neither"))
	}
	if !c.ServerTLSBootstrap && c.TLSCertFile == "" {
		errs = append(errs, fmt.Errorf("serverTLSBootstrap: false: the API server verifies nodes' certificates: give tlsCertFile and tlsPrivateKeyFile, or leave it true"))
	}
	return errs
}
