package volume

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mote-edge/mote/agent/objects"
)

// Run keeps the content of mounted volumes current until ctx ends: it projects again what a followed object's change or
// a token's age asks for. It sleeps otherwise.
func (v *Volumes) Run(ctx context.Context) error {
	defer v.close()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, wait := v.due()
		for _, uid := range due {
			v.project(ctx, uid)
		}
		if len(due) > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case <-v.wake:
		case <-timer.C:
		}
	}
}

// changed is told by the object cache.
func (v *Volumes) changed(_ objects.Ref, owners []types.UID) { v.dirtied(owners) }

// dirtied notes pods whose content may be old.
func (v *Volumes) dirtied(owners []types.UID) {
	v.mu.Lock()
	for _, uid := range owners {
		v.dirty[uid] = true
	}
	v.mu.Unlock()
	v.poke()
}

func (v *Volumes) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// schedule notes when the pod's tokens want renewal.
func (v *Volumes) schedule(p *podVolumes) {
	v.mu.Lock()
	defer v.mu.Unlock()
	uid := p.pod.UID
	if p.refresh.IsZero() || v.pods[uid] != p {
		delete(v.refresh, uid)
		return
	}
	v.refresh[uid] = p.refresh
	v.poke()
}

// due takes the pods whose content may be old, and says how long to sleep when there is none.
func (v *Volumes) due() ([]types.UID, time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	wait, now := 24*time.Hour, v.now()
	for uid, at := range v.refresh {
		if !at.After(now) {
			v.dirty[uid] = true
			delete(v.refresh, uid)
			continue
		}
		wait = min(wait, at.Sub(now))
	}
	uids := slices.Collect(maps.Keys(v.dirty))
	clear(v.dirty)
	return uids, wait
}

// project brings the content of a pod's volumes up to date. Volumes that aren't mounted yet are Mount's to make. What
// can't be read keeps its old content: that is what the pod was promised.
func (v *Volumes) project(ctx context.Context, uid types.UID) {
	v.mu.Lock()
	p := v.pods[uid]
	v.mu.Unlock()
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone || p.pod == nil {
		return
	}
	if len(p.mounted) != len(p.pod.Spec.Volumes) {
		if v.cfg.Retry != nil {
			v.cfg.Retry(uid)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	p.refresh, p.offline = time.Time{}, false
	for i := range p.pod.Spec.Volumes {
		vol := &p.pod.Spec.Volumes[i]
		if vol.ConfigMap == nil && vol.Secret == nil && vol.Projected == nil {
			continue
		}
		if _, err := v.mountProjected(ctx, p, vol); err != nil {
			level := slog.LevelWarn
			if apierrors.IsNotFound(err) {
				level = slog.LevelDebug // as whenever a namespace is deleted: the ConfigMaps go before the pods
			}
			v.cfg.Log.Log(ctx, level, "volume keeps its old content", "pod", p.pod.Namespace+"/"+p.pod.Name, "volume", vol.Name, "error", err)
			if vol.Projected != nil && p.refresh.IsZero() {
				p.refresh = v.now().Add(time.Minute) // a token whose renewal failed
			}
		}
	}
	v.schedule(p)
}

// refsOf lists the objects that a pod's volumes show.
func refsOf(pod *corev1.Pod) []objects.Ref {
	var refs []objects.Ref
	add := func(kind objects.Kind, name string) {
		refs = append(refs, objects.Ref{Kind: kind, Namespace: pod.Namespace, Name: name})
	}
	for _, vol := range pod.Spec.Volumes {
		switch {
		case vol.ConfigMap != nil:
			add(objects.ConfigMaps, vol.ConfigMap.Name)
		case vol.Secret != nil:
			add(objects.Secrets, vol.Secret.SecretName)
		case vol.Projected != nil:
			for _, s := range vol.Projected.Sources {
				if s.ConfigMap != nil {
					add(objects.ConfigMaps, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(objects.Secrets, s.Secret.Name)
				}
			}
		}
	}
	return refs
}

// inputsOf sums up what of a pod, outside its volumes (which never change), goes into their content.
func inputsOf(pod *corev1.Pod) string {
	if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.DownwardAPI != nil || v.Projected != nil }) {
		return "none"
	}
	h := fnv.New64a()
	for _, m := range []map[string]string{pod.Labels, pod.Annotations} {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			fmt.Fprintf(h, "%q=%q\n", k, m[k])
		}
	}
	for _, c := range pod.Spec.Containers {
		fmt.Fprintln(h, c.Name, c.Resources.String())
	}
	return fmt.Sprintf("%x", h.Sum64())
}
