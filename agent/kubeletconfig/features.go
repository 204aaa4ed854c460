package kubeletconfig

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/component-helpers/nodedeclaredfeatures"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures/types"
)

// built are the feature gates of 1.37 that concern a node and whose feature is always on here: those that are GA, and
// the beta ones that Mote has. Older gates are gone upstream, too.
var built = strings.Fields(`
	CustomCPUCFSQuotaPeriod CPUManagerPolicyOptions CSIServiceAccountTokenSecrets ClusterTrustBundle ClusterTrustBundleProjection
	DynamicResourceAllocation ExecProbeTimeout HostnameOverride ImageMaximumGCAge ImageVolume InPlacePodVerticalScaling
	InPlacePodVerticalScalingInitContainers KubeletFineGrainedAuthz KubeletPodResourcesDynamicResources KubeletPodResourcesGet NodeSwap
	PLEGOnDemandRelist PodCertificateRequest PodObservedGenerationTracking PodReadyToStartContainersCondition ProcMountType
	RecursiveReadOnlyMounts RelaxedEnvironmentVariableValidation RelaxedServiceNameValidation ServiceAccountTokenNodeBinding
	ServiceAccountTokenPodNodeInfo SupplementalGroupsPolicy TopologyManagerPolicyOptions UserNamespacesSupport
	ContainerRestartRules GracefulNodeShutdown GracefulNodeShutdownBasedOnPodPriority KubeletCrashLoopBackOffMax PodLevelResources
	InPlacePodLevelResourcesVerticalScaling RotateKubeletServerCertificate ExtendWebSocketsToKubelet HugepageAwareEviction
	RestartAllContainersOnContainerExits NodeDeclaredFeatures EnvFiles CPUManagerPolicyBetaOptions TopologyManagerPolicyBetaOptions
	KubeletEnsureSecretPulledImages KubeletServiceAccountTokenForCredentialProviders PodLevelResourcesFixDefaulting
	PodLevelResourcesFixKubeletQOSClass DRAAdminAccess DRAPrioritizedList DRAPartitionableDevices DRAConsumableCapacity
	NodeLogQuery SystemdWatchdog KubeletPSI MemoryQoS ComponentStatusz DRAExtendedResource DRADeviceTaints DRADeviceTaintRules DRAResourceClaimDeviceStatus`)

// Declared are the features of this node that the API server and the scheduler look at before they rely on them
// (status.declaredFeatures), sorted.
func Declared() []string {
	gates := ndf.FeatureGateMap{}
	for _, name := range built {
		gates[name] = true
	}
	return nodedeclaredfeatures.DefaultFramework.DiscoverNodeFeatures(&ndf.NodeConfiguration{FeatureGates: gates})
}

// checkFeatures refuses what can't be switched.
func checkFeatures(gates map[string]bool) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(gates)) {
		switch on := gates[name]; {
		case on && !slices.Contains(built, name):
			errs = append(errs, fmt.Errorf("featureGates: %s: true: this node doesn't have it: remove it", name))
		case !on && slices.Contains(built, name):
			errs = append(errs, fmt.Errorf("featureGates: %s: false: it can't be turned off: remove it", name))
		}
	}
	return errs
}
