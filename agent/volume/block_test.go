package volume

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestContentOf(t *testing.T) {
	for out, want := range map[string]string{
		"DEVNAME=/dev/x\nTYPE=ext4\n": "ext4", "DEVNAME=/dev/x\nTYPE=vfat\nPTTYPE=dos\n": "vfat", "": "",
		"DEVNAME=/dev/x\nPTTYPE=gpt\n": "disk /dev/x has a gpt partition table: give one of its partitions, or clear it",
	} {
		got, err := contentOf("/dev/x", out)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", out, got, want)
		}
	}
}

// loopDevice is a block device of 64 MiB without content.
func loopDevice(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("this kernel has no loop devices")
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return device
}

// A local volume on a block device is formatted at its first use and mounted for each pod; with volumeMode Block containers
// get the device itself.
func TestLocalVolumeOnADisk(t *testing.T) {
	device := loopDevice(t)
	v, c := setup(t)
	block, files := corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem
	claim := func(mode *corev1.PersistentVolumeMode) {
		c.claims = map[string]*corev1.PersistentVolumeClaim{"c": {ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv", VolumeMode: mode}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}}
		c.volumes = map[string]*corev1.PersistentVolume{"pv": {ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{UID: "u"}, VolumeMode: mode, MountOptions: []string{"noatime"}, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: device}},
		}}}
	}
	user := func(uid string, readOnly bool) *corev1.Pod {
		p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: readOnly}}})
		p.Name, p.UID = uid, types.UID(uid)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(77))}
		return p
	}
	claim(&files)
	if err := v.Mount(t.Context(), user("blank", true)); err == nil || !strings.Contains(err.Error(), "cannot mount unformatted disk") {
		t.Errorf("a blank disk that may only be read: %v", err)
	}
	if err := v.Unmount(t.Context(), "blank"); err != nil {
		t.Fatal(err)
	}
	first, second := user("first", false), user("second", false)
	at := mount(t, v, first)["v0"]
	if err := os.WriteFile(filepath.Join(at, "kept"), []byte("here"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(at); err != nil || groupOf(info) != 77 {
		t.Errorf("group %d, want 77 (%v)", groupOf(info), err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !strings.Contains(string(mounts), " "+at+" rw,noatime ") {
		t.Errorf("the volume's mount options are missing (%v)", err)
	}
	if got := read(t, filepath.Join(mount(t, v, second)["v0"], "kept")); got != "here" {
		t.Errorf("a second pod reads %q", got)
	}
	for _, p := range []*corev1.Pod{first, second} {
		if err := v.Unmount(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(mount(t, v, first)["v0"], "kept")); got != "here" {
		t.Errorf("after it was unmounted: %q", got)
	}
	if _, err := v.ContainerDevices(first, &corev1.Container{VolumeDevices: []corev1.VolumeDevice{{Name: "v0", DevicePath: "/dev/x"}}}); err == nil {
		t.Error("files were handed out as a device")
	}
	if err := v.Unmount(t.Context(), first.UID); err != nil {
		t.Fatal(err)
	}

	claim(&block)
	raw := user("raw", true)
	mount(t, v, raw)
	devices, err := v.ContainerDevices(raw, &corev1.Container{VolumeDevices: []corev1.VolumeDevice{{Name: "v0", DevicePath: "/dev/x"}}})
	want := &runtimeapi.Device{HostPath: device, ContainerPath: "/dev/x", Permissions: "mr"}
	if err != nil || len(devices) != 1 || devices[0].String() != want.String() {
		t.Errorf("devices %v, want %v (%v)", devices, want, err)
	}
	if _, err := v.ContainerMounts(t.Context(), raw, &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "v0", MountPath: "/x"}}}, nil); err == nil || !strings.Contains(err.Error(), "volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("a device as files: %v", err)
	}
	if err := v.Unmount(t.Context(), raw.UID); err != nil {
		t.Fatal(err)
	}
}
