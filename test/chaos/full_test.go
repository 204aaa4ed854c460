package chaos

import (
	"context"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/mote-edge/mote/test/chaos/check"
)

// fill takes all that is left on the node's disk, and returns how to give it back.
func fill(t *testing.T) (free func()) {
	t.Helper()
	path := filepath.Join(node.Dir(), "fill")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err = f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk isn't full: %v", err)
	}
	_ = f.Close()
	return func() { _ = os.Remove(path) }
}

func fullErr(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "no space left on device") || strings.Contains(err.Error(), "disk is full"))
}

// TestDiskFull: with no byte left on the node's disk, what can't be written is refused with that reason and leaves nothing;
// what runs goes on, also when the runtime is killed meanwhile; and when there is space again, no line is missing.
func TestDiskFull(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	runs := kinds[2]
	ends := kind{spec: func(p *corev1.Pod, _ *rand.Rand) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers = []corev1.Container{shell("c", "trap 'exit 7' TERM; while true; do sleep 0.1; done")}
	}}
	if _, err := client.Pods(namespace).Create(ctx, newPod(runs, "writer", newRand()), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := await(ctx, client, "writer", patience, isReady)
	if err != nil {
		t.Fatal(err)
	}
	ids := containerIDs(p)
	if _, err := client.Pods(namespace).Create(ctx, newPod(ends, "ends", newRand()), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if p, err = await(ctx, client, "ends", patience, isReady); err != nil {
		t.Fatal(err)
	}
	startRegistry(t)
	// Without the agent nobody evicts: this is about the runtime.
	if err := node.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+place().Dirs.RuntimeSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rt := cri.NewRuntimeServiceClient(conn)
	sandbox := func(uid string) (string, error) {
		r, err := rt.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
			Metadata: &cri.PodSandboxMetadata{Name: "full", Namespace: "default", Uid: uid}, Hostname: "full",
			LogDirectory: filepath.Join(node.Dir(), "log", "pods", "full"), Linux: &cri.LinuxPodSandboxConfig{CgroupParent: node.Cgroup() + "/kubepods/full"},
		}}, grpc.WaitForReady(true))
		return r.GetPodSandboxId(), err
	}
	before, err := check.Look(ctx, alone())
	if err != nil {
		t.Fatal(err)
	}
	there, err := sandbox("u0")
	if err != nil {
		t.Fatal(err)
	}
	free := fill(t)
	defer free()
	// What was there before can be ended: that is how space comes back.
	if _, err := rt.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: there}); err != nil {
		t.Errorf("stop a sandbox on a full disk: %v", err)
	}
	if _, err := rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: there}); err != nil {
		t.Errorf("remove a sandbox on a full disk: %v", err)
	}
	// The runtime can't write down how this one ends, and is killed after that.
	for cg, pids := range before.Processes {
		if strings.Contains(cg, string(p.UID)) {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, err := rt.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": string(p.UID)}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Containers) == 1 && list.Containers[0].State == cri.ContainerState_CONTAINER_EXITED {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it doesn't end: %v", list.Containers)
		}
	}
	pull := func() error {
		_, err := cri.NewImageServiceClient(conn).PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: pulled}}, grpc.WaitForReady(true))
		return err
	}
	for range 3 {
		if err := pull(); !fullErr(err) && status.Code(err) != codes.Unavailable {
			t.Errorf("a pull on a full disk: %v", err)
		}
		id, err := sandbox("u1")
		for deadline := time.Now().Add(20 * time.Second); status.Code(err) == codes.Unavailable && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			id, err = sandbox("u1") // the runtime was killed the round before, and comes back
		}
		if !fullErr(err) {
			t.Errorf("a sandbox on a full disk: %s, %v", id, err)
		}
		if pid, ok := program("mote-runtime"); !ok || syscall.Kill(pid, syscall.SIGKILL) != nil {
			t.Error("the runtime isn't there to be killed")
		}
	}
	answers(nil) // it was killed just now
	if out, err := cluster.Mote(ctx, 1, "images", "import", archive); err == nil {
		t.Logf("import on a full disk of an image that is there: %s", out) // nothing to write
	}
	if out, err := cluster.Mote(ctx, 1, "images", "import", other); !fullErr(err) {
		t.Errorf("import on a full disk: %v: %s", err, out)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := pull()
		if status.Code(err) == codes.Unavailable && time.Now().Before(deadline) {
			continue // the runtime was killed just now
		}
		if !fullErr(err) {
			t.Errorf("a pull on a full disk: %v", err)
		}
		break
	}
	if left, err := os.ReadDir(filepath.Join(place().Dirs.Runtime(), "blobs")); err != nil || len(left) > 0 {
		t.Errorf("what was pulled on a full disk: %v, %v", left, err)
	}
	after, err := check.Look(ctx, alone())
	if err != nil {
		t.Fatal(err)
	}
	without := func(list []string) (out []string) { // what the one that has ended stood on
		for _, one := range list {
			if !slices.ContainsFunc(before.Containers, func(c check.Container) bool { return c.UID == string(p.UID) && strings.Contains(one, c.ID) }) {
				out = append(out, one)
			}
		}
		return out
	}
	for what, pair := range map[string][2][]string{
		"mounts": {before.Mounts, after.Mounts}, "links": {before.Links, after.Links}, "namespaces": {before.Pins, after.Pins},
		"attachments": {before.Attachments, after.Attachments}, "cgroups": {before.Cgroups, after.Cgroups}, "streams": {before.Kept, after.Kept},
		"temporary files": {before.Temporary, after.Temporary},
	} {
		pair[0], pair[1] = without(pair[0]), without(pair[1])
		slices.Sort(pair[0])
		slices.Sort(pair[1])
		if !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %v before, %v with a full disk", what, pair[0], pair[1])
		}
	}

	free()
	id, err := sandbox("u2")
	if err != nil {
		t.Errorf("a sandbox when there is space again: %v", err)
	} else if _, err := rt.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		t.Error(err)
	}
	if out, err := cluster.Mote(ctx, 1, "images", "import", other); err != nil {
		t.Errorf("import when there is space again: %v: %s", err, out)
	}
	if err := node.StartAgent(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if p, err = await(ctx, client, "ends", patience, func(p *corev1.Pod) bool { return p != nil && over(p) }); err != nil {
		t.Fatal(err)
	}
	if err := exited(p, "c", "7", 0); err != nil {
		t.Error(err)
	}
	remove(t, ctx, client, "ends")
	if p, err = await(ctx, client, "writer", patience, isReady); err != nil {
		t.Fatal(err)
	}
	if now := containerIDs(p); now != ids {
		t.Errorf("the container was replaced: %s, was %s", now, ids)
	}
	if err := runs.judge(p); err != nil {
		t.Error(err)
	}
	life(t, ctx, client, kinds[0], "after-full", newRand(), 0)
	fromRegistry := kinds[0]
	fromRegistry.spec = func(p *corev1.Pod, r *rand.Rand) {
		kinds[0].spec(p, r)
		p.Spec.Containers[0].Image = pulled
	}
	life(t, ctx, client, fromRegistry, "pulled-after-full", newRand(), 0)
	remove(t, ctx, client, "writer")
	settleDown(t, ctx, client)
}

// TestDiskPressure: a pod that fills the node's disk is evicted, and nothing else is; the node says that its disk is full, takes
// no pod then, and is well again when there is space.
func TestDiskPressure(t *testing.T) {
	client, err := cluster.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	pressure := func(want corev1.ConditionStatus, limit time.Duration) {
		t.Helper()
		var got corev1.NodeCondition
		for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(250 * time.Millisecond) {
			n, err := client.Nodes().Get(ctx, node.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeDiskPressure {
					got = c
				}
			}
			if got.Status == want {
				return
			}
		}
		t.Errorf("DiskPressure isn't %s within %s: %v", want, limit, got)
	}
	create := func(k kind, name string) {
		t.Helper()
		if _, err := client.Pods(namespace).Create(ctx, newPod(k, name, newRand()), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	evicted := func(name, message string) {
		t.Helper()
		p, err := await(ctx, client, name, patience, func(p *corev1.Pod) bool { return p != nil && over(p) })
		if err != nil {
			t.Error(err)
		} else if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, message) {
			t.Errorf("%s: %s %s: %s", name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		remove(t, ctx, client, name)
	}
	pressure(corev1.ConditionFalse, 30*time.Second)
	create(kinds[2], "modest")
	p, err := await(ctx, client, "modest", patience, isReady)
	if err != nil {
		t.Fatal(err)
	}
	ids := containerIDs(p)
	create(kind{spec: func(p *corev1.Pod, _ *rand.Rand) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		c := shell("c", "dd if=/dev/zero of=/v/fill bs=1M; exec sleep 100000")
		c.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		p.Spec.Containers = []corev1.Container{c}
	}}, "hog")
	evicted("hog", "The node was low on resource: ephemeral-storage")
	pressure(corev1.ConditionTrue, 30*time.Second)
	create(kinds[1], "too-late")
	evicted("too-late", "The node had condition: [DiskPressure]")
	// The condition stays for evictionPressureTransitionPeriod; a new agent judges anew.
	if err := node.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := node.StartAgent(ctx, ""); err != nil {
		t.Fatal(err)
	}
	pressure(corev1.ConditionFalse, 90*time.Second)
	life(t, ctx, client, kinds[1], "after-pressure", newRand(), 0)
	if p, err = await(ctx, client, "modest", patience, isReady); err != nil {
		t.Fatal(err)
	}
	if now := containerIDs(p); now != ids {
		t.Errorf("the container was replaced: %s, was %s", now, ids)
	}
	if err := kinds[2].judge(p); err != nil {
		t.Error(err)
	}
	remove(t, ctx, client, "modest")
	settleDown(t, ctx, client)
}

// alone is place while there is no agent: the holder is in the same namespaces.
func alone() check.Node {
	n := place()
	n.Pid, _ = program("mote-hold")
	return n
}

// copyProgram makes a program that is another to an image store: its layer is new to the node.
func copyProgram(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	_, err = io.WriteString(f, "another") // behind the program's end
	return err
}
