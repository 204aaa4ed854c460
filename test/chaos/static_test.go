package chaos

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/mote-edge/mote/internal/kubeclient"
)

// statics takes static pods through their lives, one after another, until stop: a manifest comes, is replaced by another one
// of the same name, and goes.
func statics(t *testing.T, ctx context.Context, client *kubeclient.Client, stop <-chan struct{}, r *rand.Rand) (lived int) {
	for ; ; lived++ {
		select {
		case <-stop:
			return lived
		default:
		}
		name, before := fmt.Sprintf("static-%d", lived), ""
		for version := range 2 {
			pod := newPod(kinds[2], name, r)
			pod.TypeMeta, pod.Spec.NodeName = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ""
			pod.Labels = map[string]string{"version": fmt.Sprint(version)}
			if err := writeManifest(name, pod); err != nil {
				t.Error(err)
				return lived
			}
			p, err := await(ctx, client, name+"-"+node.Name, patience, func(p *corev1.Pod) bool { return isReady(p) && uidOf(p) != before })
			if err == nil {
				before = uidOf(p)
				err = kinds[2].judge(p)
			}
			if err != nil {
				t.Errorf("static pod, version %d: %v; the runtime has %s", version, err, has(ctx, p))
			}
		}
		if err := os.Remove(manifest(name)); err != nil {
			t.Error(err)
		}
		if p, err := await(ctx, client, name+"-"+node.Name, patience, func(p *corev1.Pod) bool { return p == nil }); err != nil {
			t.Errorf("static pod whose manifest is gone: %v; the runtime has %s", err, has(ctx, p))
		}
	}
}

func manifest(name string) string { return filepath.Join(place().Dirs.StaticPods(), name+".yaml") }

// writeManifest puts a manifest in its place at once, as those who write manifests should.
func writeManifest(name string, pod *corev1.Pod) error {
	raw, err := yaml.Marshal(pod)
	if err != nil {
		return err
	}
	next := filepath.Join(place().Dirs.StaticPods(), "."+name)
	if err := os.WriteFile(next, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(next, manifest(name))
}
