package agent

import (
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/image"
)

// newPuller makes what brings images to the node.
func (a *Agent) newPuller(p *parts) (*image.Puller, error) {
	k := &a.cfg.Kubelet
	cfg := image.Config{
		Images: p.cri.Images, Parallel: k.ParallelPulls(), Dir: filepath.Join(a.cfg.Dirs.Agent(), "image_manager"),
		Verification: image.Policy(k.ImagePullCredentialsVerificationPolicy), Allowlist: k.PreloadedImagesVerificationAllowlist,
		DockerConfigs: dockerConfigs(a.cfg.KubeletDir), Tally: p.meters.tally, Log: a.cfg.Log,
	}
	if a.cfg.CredentialProviderConfig != "" {
		var accounts image.Accounts
		if p.api != nil {
			accounts = p.api
		}
		var err error
		if cfg.Providers, err = image.OpenProviders(a.cfg.CredentialProviderConfig, a.cfg.CredentialProviderBinDir, accounts, a.cfg.Log); err != nil {
			return nil, err
		}
	}
	return image.New(cfg)
}

// dockerConfigs are where upstream's kubelet looks for the node's own registry credentials.
func dockerConfigs(kubeletDir string) []string {
	out := []string{filepath.Join(kubeletDir, "config.json")}
	if home, err := os.UserHomeDir(); err == nil {
		out = append(out, filepath.Join(home, ".docker", "config.json"))
	}
	return append(out, "/.docker/config.json")
}

// collector keeps images from filling the disk.
func (a *Agent) collector(p *parts) *image.Collector {
	k := &a.cfg.Kubelet
	return &image.Collector{
		Images: p.cri.Images, Runtime: p.cri, Thresholds: image.Thresholds{High: int(k.ImageGCHighThresholdPercent), Low: int(k.ImageGCLowThresholdPercent)},
		MinAge: k.ImageMinimumGCAge.Duration, MaxAge: k.ImageMaximumGCAge.Duration, Log: a.cfg.Log,
		Failed:  func(reason, message string) { a.nodeEvent(p)(corev1.EventTypeWarning, reason, message) },
		Volumes: func() []string { return imageVolumes(p.pods.Pods()) }, Removed: p.puller.Prune,
	}
}

// imageVolumes are the images that pods mount.
func imageVolumes(pods []*corev1.Pod) []string {
	var out []string
	for _, pod := range pods {
		for i := range pod.Spec.Volumes {
			if v := pod.Spec.Volumes[i].Image; v != nil && v.Reference != "" {
				out = append(out, v.Reference)
			}
		}
	}
	return out
}
