package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var errNoAPI = errors.New("this node runs without an API server")

// mountClaim makes the persistent volume behind a claim ready. A bound claim never changes its volume, so it is noted on
// disk, for the times when the API server is out of reach.
func (v *Volumes) mountClaim(ctx context.Context, p *podVolumes, vol *corev1.Volume, name string, readOnly bool) (mounted, error) {
	note := filepath.Join(v.cfg.PodsDir, string(p.pod.UID), "volumes", "kubernetes.io~claim", vol.Name+".json")
	pv, err := v.bound(ctx, p, vol, name)
	if outOfReach(err) {
		if b, readErr := os.ReadFile(note); readErr == nil {
			pv = &corev1.PersistentVolume{}
			err = json.Unmarshal(b, pv)
		}
	} else if err == nil {
		err = writeNote(note, pv)
	}
	if err != nil {
		return mounted{}, err
	}
	m, err := v.mountPersistent(ctx, p, vol.Name, pv, readOnly)
	m.readOnly = m.readOnly || readOnly
	return m, err
}

func writeNote(path string, pv *corev1.PersistentVolume) error {
	b, err := json.Marshal(corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: pv.Name}, Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: pv.Spec.PersistentVolumeSource, VolumeMode: pv.Spec.VolumeMode, MountOptions: pv.Spec.MountOptions,
		},
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// bound finds the persistent volume that a claim is bound to.
func (v *Volumes) bound(ctx context.Context, p *podVolumes, vol *corev1.Volume, name string) (*corev1.PersistentVolume, error) {
	if v.cfg.API == nil {
		return nil, fmt.Errorf("claim %q: %w", name, errNoAPI)
	}
	claim, err := v.cfg.API.Claim(ctx, p.pod.Namespace, name)
	if err != nil {
		return nil, err
	}
	if vol.Ephemeral != nil && !metav1.IsControlledBy(claim, p.pod) {
		return nil, fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, p.pod.Namespace, p.pod.Name)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, fmt.Errorf("PVC %s/%s is not bound", claim.Namespace, claim.Name)
	}
	pv, err := v.cfg.API.Volume(ctx, claim.Spec.VolumeName)
	if err != nil {
		return nil, err
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return nil, fmt.Errorf("PV %s is not bound to PVC %s/%s", pv.Name, claim.Namespace, claim.Name)
	}
	return pv, nil
}

func (v *Volumes) mountPersistent(ctx context.Context, p *podVolumes, name string, pv *corev1.PersistentVolume, readOnly bool) (mounted, error) {
	switch src := pv.Spec.PersistentVolumeSource; {
	case isBlock(pv.Spec.VolumeMode) && src.Local == nil:
		return mounted{}, fmt.Errorf("persistent volume %s has volumeMode Block: only local volumes may have it on this node", pv.Name)
	case src.HostPath != nil:
		return mountHostPath(src.HostPath)
	case src.Local != nil:
		return v.mountLocal(ctx, p.pod, name, pv, readOnly)
	case src.CSI != nil:
		return mounted{}, fmt.Errorf("CSI driver %s of volume %s: CSI volumes are not supported yet by this node", src.CSI.Driver, pv.Name)
	}
	return mounted{}, fmt.Errorf("no volume plugin matched: persistent volume %s is of a kind that this node doesn't support", pv.Name)
}
