package kubeletconfig

// ignored are fields that are accepted and change nothing here, with the reason. They ask for what happens anyway, or tune
// what Mote doesn't have.
var ignored = map[string]string{
	"syncFrequency":                             "pods are looked at when something happens to them, not in rounds",
	"fileCheckFrequency":                        "manifests are watched",
	"httpCheckFrequency":                        "manifests are watched",
	"registryPullQPS":                           "pulls are bounded by maxParallelImagePulls",
	"registryBurst":                             "pulls are bounded by maxParallelImagePulls",
	"streamingConnectionIdleTimeout":            "streams end with their connection",
	"runtimeRequestTimeout":                     "each call of the runtime has the time limit that fits it",
	"hairpinMode":                               "mote-cni lets pods reach themselves through their Services always",
	"contentType":                               "the API is spoken in protobuf",
	"makeIPTablesUtilChains":                    "the service proxy keeps its own chains",
	"iptablesMasqueradeBit":                     "the service proxy keeps its own marks",
	"iptablesDropBit":                           "the service proxy keeps its own marks",
	"containerLogMaxWorkers":                    "one worker rotates logs",
	"configMapAndSecretChangeDetectionStrategy": "ConfigMaps and Secrets are watched",
	"volumePluginDir":                           "flex volumes are gone; CSI drivers register themselves",
	"kernelMemcgNotification":                   "the kernel's notifications are always used",
	"logging":                                   "logs are text on stderr",
	"enableContentionProfiling":                 "the node API serves no profiles",
	"enableProfilingHandler":                    "the node API serves no profiles",
	"enableDebugFlagsHandler":                   "the node API changes no flags",
	"showHiddenMetricsForVersion":               "no metric is hidden",
}

// refusal is what a field can't be here: any value but the harmless ones, given as JSON, is an error.
type refusal struct {
	harmless []string
	why      string // and the remedy
}

var refused = map[string]refusal{
	"staticPodURL":         {[]string{`""`}, "manifests come from files: put them into staticPodPath"},
	"staticPodURLHeader":   {[]string{`{}`}, "manifests come from files: put them into staticPodPath"},
	"readOnlyPort":         {[]string{`0`}, "there is no unauthenticated port: let readers use port 10250 with a token that may get nodes/metrics, nodes/stats or nodes/pods"},
	"kubeletCgroups":       {[]string{`""`}, "the agent stays in the cgroup that started it: set Slice= in its systemd unit"},
	"systemCgroups":        {[]string{`""`}, "processes are not moved: set Slice= in their systemd units"},
	"cgroupsPerQOS":        {[]string{`true`}, "pods always have cgroups of their own: remove it"},
	"cgroupDriver":         {[]string{`"cgroupfs"`}, "cgroup files are written directly: set it to cgroupfs, which works beside systemd with a delegated slice as cgroupRoot"},
	"qosReserved":          {[]string{`{}`}, "it belongs to an alpha feature: remove it"},
	"podCIDR":              {[]string{`""`}, "the pod range comes from the Node object: remove it"},
	"runOnce":              {[]string{`false`}, "upstream has taken run-once mode away, too: use a Job"},
	"defaultPodSysctls":    {[]string{`{}`}, "it belongs to an alpha feature: set spec.securityContext.sysctls in pods"},
	"tracing":              {nil, "no traces are exported: remove it"},
	"imageServiceEndpoint": {[]string{`""`}, "images and containers are one runtime's: set containerRuntimeEndpoint alone"},
}
