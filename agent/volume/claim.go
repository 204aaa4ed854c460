package volume

import (
	"context"
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var errNoAPI = errors.New("this node runs without an API server")

// mountClaim finds the persistent volume behind a claim and makes it ready.
func (v *Volumes) mountClaim(ctx context.Context, p *podVolumes, vol *corev1.Volume, name string, readOnly bool) (mounted, error) {
	if v.cfg.API == nil {
		return mounted{}, fmt.Errorf("claim %q: %w", name, errNoAPI)
	}
	claim, err := v.cfg.API.Claim(ctx, p.pod.Namespace, name)
	if err != nil {
		return mounted{}, err
	}
	if vol.Ephemeral != nil && !metav1.IsControlledBy(claim, p.pod) {
		return mounted{}, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, p.pod.Namespace, p.pod.Name)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return mounted{}, fmt.Errorf("PVC %s/%s is not bound", claim.Namespace, claim.Name)
	}
	if mode := claim.Spec.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		return mounted{}, fmt.Errorf("PVC %s/%s has volumeMode Block, which is not supported yet", claim.Namespace, claim.Name)
	}
	pv, err := v.cfg.API.Volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return mounted{}, err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return mounted{}, fmt.Errorf("PV %s is not bound to PVC %s/%s", pv.Name, claim.Namespace, claim.Name)
	}
	m, err := v.mountPersistent(p, pv)
	m.readOnly = m.readOnly || readOnly
	return m, err
}

func (v *Volumes) mountPersistent(p *podVolumes, pv *corev1.PersistentVolume) (mounted, error) {
	switch src := pv.Spec.PersistentVolumeSource; {
	case src.HostPath != nil:
		return mountHostPath(src.HostPath)
	case src.Local != nil:
		// The path is handed to the runtime as it is: a bind mount of ours between them would only be one more thing
		// to lose track of, with the user's data behind it.
		info, err := os.Stat(src.Local.Path)
		switch {
		case err != nil:
			return mounted{}, fmt.Errorf("local volume %s: %w", pv.Name, err)
		case !info.IsDir():
			return mounted{}, fmt.Errorf("local volume %s: %s is not a directory, and block devices are not supported yet", pv.Name, src.Local.Path)
		}
		return mounted{path: src.Local.Path, relabel: true}, applyFSGroup(p.pod, src.Local.Path)
	case src.CSI != nil:
		return mounted{}, fmt.Errorf("CSI driver %s of volume %s: CSI volumes are not supported yet by this node", src.CSI.Driver, pv.Name)
	}
	return mounted{}, fmt.Errorf("no volume plugin matched: persistent volume %s is of a kind that this node doesn't support", pv.Name)
}
