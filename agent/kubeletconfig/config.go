// Package kubeletconfig reads KubeletConfiguration files (kubelet.config.k8s.io/v1beta1), with drop-ins, as kubelets do:
// their field names and defaults, and for every field that can't act here one line that says why and what to do instead.
//
// The published types (k8s.io/kubelet/config/v1beta1) aren't used outside the tests: they link the metrics registry,
// feature gates and tracing into every node, for a struct. A test compares the field names with theirs.
//
// Reads:  the configuration file, *.conf in the drop-in directory.
// Writes: nothing.
package kubeletconfig

import (
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Configuration is what a node acts on. Fields are named as in v1beta1, and so documented. Left out, a field has its
// default; so has one that is zero, unless it is tagged zero:"" (an optional field upstream, where zero means zero).
type Configuration struct {
	EnableServer     bool   `json:"enableServer" zero:""`
	StaticPodPath    string `json:"staticPodPath"`
	PodLogsDir       string `json:"podLogsDir"`
	Address          string `json:"address"`
	Port             int32  `json:"port"`
	ProviderID       string `json:"providerID"`
	RegisterNode     bool   `json:"registerNode" zero:""`
	FailCgroupV1     bool   `json:"failCgroupV1" zero:""`
	MaxOpenFiles     int64  `json:"maxOpenFiles"`
	OOMScoreAdj      int32  `json:"oomScoreAdj" zero:""`
	KubeAPIQPS       int32  `json:"kubeAPIQPS" zero:""` // 0: no bound
	KubeAPIBurst     int32  `json:"kubeAPIBurst"`
	EventRecordQPS   int32  `json:"eventRecordQPS" zero:""`
	EventBurst       int32  `json:"eventBurst"`
	SeccompDefault   bool   `json:"seccompDefault" zero:""`
	EvictionMaxGrace int32  `json:"evictionMaxPodGracePeriod"`

	TLSCertFile         string   `json:"tlsCertFile"`
	TLSPrivateKeyFile   string   `json:"tlsPrivateKeyFile"`
	TLSCipherSuites     []string `json:"tlsCipherSuites"`
	TLSCurvePreferences []int32  `json:"tlsCurvePreferences"`
	TLSMinVersion       string   `json:"tlsMinVersion"`
	RotateCertificates  bool     `json:"rotateCertificates" zero:""`
	ServerTLSBootstrap  bool     `json:"serverTLSBootstrap" zero:""`

	Authentication          Authentication `json:"authentication"`
	Authorization           Authorization  `json:"authorization"`
	EnableDebuggingHandlers bool           `json:"enableDebuggingHandlers" zero:""`
	EnableSystemLogHandler  bool           `json:"enableSystemLogHandler" zero:""`
	EnableSystemLogQuery    bool           `json:"enableSystemLogQuery"`
	HealthzPort             int32          `json:"healthzPort" zero:""`
	HealthzBindAddress      string         `json:"healthzBindAddress"`

	ClusterDomain  string   `json:"clusterDomain"`
	ClusterDNS     []string `json:"clusterDNS"`
	ResolverConfig string   `json:"resolvConf" zero:""`

	NodeStatusUpdateFrequency    metav1.Duration `json:"nodeStatusUpdateFrequency"`
	NodeStatusReportFrequency    metav1.Duration `json:"nodeStatusReportFrequency"`
	NodeLeaseDurationSeconds     int32           `json:"nodeLeaseDurationSeconds"`
	NodeStatusMaxImages          int32           `json:"nodeStatusMaxImages" zero:""`
	EnableControllerAttachDetach bool            `json:"enableControllerAttachDetach" zero:""`
	RegisterWithTaints           []corev1.Taint  `json:"registerWithTaints"`

	ImageMinimumGCAge           metav1.Duration `json:"imageMinimumGCAge"`
	ImageMaximumGCAge           metav1.Duration `json:"imageMaximumGCAge"`
	ImageGCHighThresholdPercent int32           `json:"imageGCHighThresholdPercent" zero:""`
	ImageGCLowThresholdPercent  int32           `json:"imageGCLowThresholdPercent" zero:""`
	SerializeImagePulls         *bool           `json:"serializeImagePulls"`
	MaxParallelImagePulls       *int32          `json:"maxParallelImagePulls"`

	ImagePullCredentialsVerificationPolicy string   `json:"imagePullCredentialsVerificationPolicy"`
	PreloadedImagesVerificationAllowlist   []string `json:"preloadedImagesVerificationAllowlist"`

	VolumeStatsAggPeriod metav1.Duration `json:"volumeStatsAggPeriod"`

	CgroupRoot                    string            `json:"cgroupRoot"`
	CPUCFSQuota                   bool              `json:"cpuCFSQuota" zero:""`
	CPUCFSQuotaPeriod             metav1.Duration   `json:"cpuCFSQuotaPeriod"`
	CPUManagerPolicy              string            `json:"cpuManagerPolicy"`
	CPUManagerPolicyOptions       map[string]string `json:"cpuManagerPolicyOptions"`
	CPUManagerReconcilePeriod     metav1.Duration   `json:"cpuManagerReconcilePeriod"`
	MemoryManagerPolicy           string            `json:"memoryManagerPolicy"`
	TopologyManagerPolicy         string            `json:"topologyManagerPolicy"`
	TopologyManagerScope          string            `json:"topologyManagerScope"`
	TopologyManagerPolicyOptions  map[string]string `json:"topologyManagerPolicyOptions"`
	ReservedSystemCPUs            string            `json:"reservedSystemCPUs"`
	ReservedMemory                []Reservation     `json:"reservedMemory"`
	SystemReserved                map[string]string `json:"systemReserved"`
	KubeReserved                  map[string]string `json:"kubeReserved"`
	SystemReservedCgroup          string            `json:"systemReservedCgroup"`
	KubeReservedCgroup            string            `json:"kubeReservedCgroup"`
	EnforceNodeAllocatable        []string          `json:"enforceNodeAllocatable"`
	MaxPods                       int32             `json:"maxPods"`
	PodsPerCore                   int32             `json:"podsPerCore"`
	PodPidsLimit                  int64             `json:"podPidsLimit" zero:""` // -1: no bound
	AllowedUnsafeSysctls          []string          `json:"allowedUnsafeSysctls"`
	ProtectKernelDefaults         bool              `json:"protectKernelDefaults" zero:""`
	FailSwapOn                    bool              `json:"failSwapOn" zero:""`
	MemorySwap                    MemorySwap        `json:"memorySwap"`
	MemoryThrottlingFactor        *float64          `json:"memoryThrottlingFactor"`
	MemoryReservationPolicy       string            `json:"memoryReservationPolicy"`
	SingleProcessOOMKill          bool              `json:"singleProcessOOMKill"`
	LocalStorageCapacityIsolation bool              `json:"localStorageCapacityIsolation" zero:""`
	UserNamespaces                UserNamespaces    `json:"userNamespaces"`
	CrashLoopBackOff              CrashLoopBackOff  `json:"crashLoopBackOff"`

	// EvictionHard nil means the defaults, which depend on the machine: see agent/evict.
	EvictionHard                     map[string]string `json:"evictionHard"`
	EvictionSoft                     map[string]string `json:"evictionSoft"`
	EvictionSoftGracePeriod          map[string]string `json:"evictionSoftGracePeriod"`
	EvictionMinimumReclaim           map[string]string `json:"evictionMinimumReclaim"`
	EvictionPressureTransitionPeriod metav1.Duration   `json:"evictionPressureTransitionPeriod"`
	MergeDefaultEvictionSettings     bool              `json:"mergeDefaultEvictionSettings" zero:""`

	ContainerLogMaxSize         string          `json:"containerLogMaxSize"`
	ContainerLogMaxFiles        int32           `json:"containerLogMaxFiles" zero:""`
	ContainerLogMonitorInterval metav1.Duration `json:"containerLogMonitorInterval"`

	ShutdownGracePeriod              metav1.Duration       `json:"shutdownGracePeriod"`
	ShutdownGracePeriodCriticalPods  metav1.Duration       `json:"shutdownGracePeriodCriticalPods"`
	ShutdownGracePeriodByPodPriority []ShutdownGracePeriod `json:"shutdownGracePeriodByPodPriority"`

	ContainerRuntimeEndpoint string          `json:"containerRuntimeEndpoint"` // empty: Mote's own runtime
	FeatureGates             map[string]bool `json:"featureGates"`
}

// Authentication says who is known to the node API.
type Authentication struct {
	X509 struct {
		ClientCAFile string `json:"clientCAFile"`
	} `json:"x509"`
	Webhook struct {
		Enabled  *bool           `json:"enabled"`
		CacheTTL metav1.Duration `json:"cacheTTL"`
	} `json:"webhook"`
	Anonymous struct {
		Enabled *bool `json:"enabled"`
	} `json:"anonymous"`
}

// Authorization says who may use the node API.
type Authorization struct {
	Mode    string `json:"mode"` // AlwaysAllow or Webhook
	Webhook struct {
		CacheAuthorizedTTL   metav1.Duration `json:"cacheAuthorizedTTL"`
		CacheUnauthorizedTTL metav1.Duration `json:"cacheUnauthorizedTTL"`
	} `json:"webhook"`
}

// Reservation is memory of one NUMA node that the memory manager keeps from pods.
type Reservation struct {
	NumaNode int32               `json:"numaNode"`
	Limits   corev1.ResourceList `json:"limits"`
}

// TieredReservation is the memoryReservationPolicy that keeps requested memory from reclaim.
const TieredReservation = "TieredReservation"

// Throttle is memoryThrottlingFactor; 0 where it isn't set.
func (c *Configuration) Throttle() float64 {
	if c.MemoryThrottlingFactor == nil {
		return 0
	}
	return *c.MemoryThrottlingFactor
}

// MemorySwap says whether containers may use the machine's swap: NoSwap or LimitedSwap.
type MemorySwap struct {
	SwapBehavior string `json:"swapBehavior"`
}

// CrashLoopBackOff bounds the delay of restarts.
type CrashLoopBackOff struct {
	MaxContainerRestartPeriod *metav1.Duration `json:"maxContainerRestartPeriod"`
}

// UserNamespaces says how many user ids a pod with a user namespace of its own gets.
type UserNamespaces struct {
	IDsPerPod *int64 `json:"idsPerPod"`
}

// ShutdownGracePeriod is how long pods from a priority upwards get when the machine shuts down.
type ShutdownGracePeriod struct {
	Priority                   int32 `json:"priority"`
	ShutdownGracePeriodSeconds int64 `json:"shutdownGracePeriodSeconds"`
}

// DefaultParallelPulls is how many images are pulled at once unless said otherwise; upstream pulls one after the other.
const DefaultParallelPulls = 5

// Default is a configuration without a file. It is upstream's, but for these: certificates are requested from the
// cluster and renewed, images are pulled in parallel, the runtime is Mote's own, and neither swap nor cgroup v1 keeps a
// node from starting.
func Default() Configuration {
	d := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	c := Configuration{
		EnableServer: true, PodLogsDir: "/var/log/pods", Port: 10250, RegisterNode: true, MaxOpenFiles: 1000000, OOMScoreAdj: -999,
		EventRecordQPS: 50, EventBurst: 100, KubeAPIBurst: 100, TLSMinVersion: "VersionTLS12", RotateCertificates: true, ServerTLSBootstrap: true,
		EnableDebuggingHandlers: true, EnableSystemLogHandler: true, HealthzPort: 10248, HealthzBindAddress: "127.0.0.1",
		ClusterDomain: "cluster.local", ResolverConfig: "/etc/resolv.conf",
		NodeStatusUpdateFrequency: d(10 * time.Second), NodeStatusReportFrequency: d(5 * time.Minute), NodeLeaseDurationSeconds: 40,
		NodeStatusMaxImages: 50, EnableControllerAttachDetach: true,
		ImageMinimumGCAge: d(2 * time.Minute), ImageGCHighThresholdPercent: 85, ImageGCLowThresholdPercent: 80, VolumeStatsAggPeriod: d(time.Minute),
		CgroupRoot: "/", CPUCFSQuota: true, CPUCFSQuotaPeriod: d(100 * time.Millisecond),
		CPUManagerPolicy: "none", CPUManagerReconcilePeriod: d(10 * time.Second), MemoryManagerPolicy: "None", TopologyManagerPolicy: "none", TopologyManagerScope: "container",
		EnforceNodeAllocatable: []string{"pods"}, MaxPods: 110, PodPidsLimit: -1, LocalStorageCapacityIsolation: true,
		EvictionPressureTransitionPeriod: d(5 * time.Minute), ContainerLogMaxSize: "10Mi", ContainerLogMaxFiles: 5, ContainerLogMonitorInterval: d(10 * time.Second),
	}
	yes, no := true, false
	c.Authentication.Webhook.Enabled, c.Authentication.Anonymous.Enabled = &yes, &no
	c.Authentication.Webhook.CacheTTL = d(2 * time.Minute)
	c.Authorization.Mode = "Webhook"
	c.Authorization.Webhook.CacheAuthorizedTTL, c.Authorization.Webhook.CacheUnauthorizedTTL = d(5*time.Minute), d(30*time.Second)
	return c
}

// complete gives the fields that were left out, or are zero where zero says nothing, their defaults.
func (c *Configuration) complete(given map[string]bool) {
	fill(reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()))
	if given["nodeStatusUpdateFrequency"] && !given["nodeStatusReportFrequency"] {
		c.NodeStatusReportFrequency = c.NodeStatusUpdateFrequency // one period, unless the report has its own
	}
}

func fill(v, def reflect.Value) {
	for i := range v.NumField() {
		f := v.Field(i)
		if _, means := v.Type().Field(i).Tag.Lookup("zero"); means {
			continue // read over its default already
		}
		if f.Kind() == reflect.Struct && f.Type() != reflect.TypeFor[metav1.Duration]() {
			fill(f, def.Field(i))
		} else if f.IsZero() {
			f.Set(def.Field(i))
		}
	}
}

// ParallelPulls is how many images may be pulled at once.
func (c *Configuration) ParallelPulls() int {
	switch {
	case c.SerializeImagePulls != nil && *c.SerializeImagePulls:
		return 1
	case c.MaxParallelImagePulls != nil:
		return int(*c.MaxParallelImagePulls)
	case c.SerializeImagePulls != nil:
		return 1 << 10 // explicitly not serialized, and no bound given
	}
	return DefaultParallelPulls
}
