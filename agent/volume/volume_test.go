package volume

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func mount(t *testing.T, v *Volumes, p *corev1.Pod) map[string]string {
	t.Helper()
	for range 2 { // idempotent
		if err := v.Mount(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]string{}
	for name, m := range v.entry(p.UID).mounted {
		out[name] = m.path
	}
	return out
}

func TestEmptyDir(t *testing.T) {
	v, _ := setup(t)
	size := resource.MustParse("1Mi")
	p := pod(
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
	)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(4321))}
	paths := mount(t, v, p)
	for name, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		want := os.ModeDir | os.ModeSetgid | 0o777
		if name == "mem" {
			want |= os.ModeSticky
		}
		if info.Mode() != want || groupOf(info) != 4321 {
			t.Errorf("%s: mode %v, group %d", name, info.Mode(), groupOf(info))
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(paths["mem"], &st); err != nil || st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != 1<<20 {
		t.Errorf("memory medium: type %x, %d bytes, %v", st.Type, st.Blocks*uint64(st.Bsize), err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{paths["mem"], v.cfg.MemoryDir} { // secrets, too
		if i := strings.Index(string(mounts), " "+dir+" "); i < 0 || !strings.Contains(strings.SplitN(string(mounts)[i:], "\n", 2)[0], "noswap") && kernelAtLeast(t, 6, 4) {
			t.Errorf("%s may be swapped out", dir)
		}
	}
	if err := os.WriteFile(filepath.Join(paths["mem"], "big"), make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than the limit: %v", err)
	}
	if err := v.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(v.cfg.PodsDir, string(p.UID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pod's directory stays: %v", err)
	}
	if err := v.Unmount(t.Context(), p.UID); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func kernelAtLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	var a, b int
	if _, err := fmt.Sscanf(string(raw), "%d.%d", &a, &b); err != nil {
		t.Fatal(err)
	}
	return a > major || a == major && b >= minor
}

func TestMemorySizeIsTheSmallestBound(t *testing.T) {
	v, _ := setup(t)
	p := pod()
	if got := v.memorySize(p, &corev1.EmptyDirVolumeSource{}); got != 1<<30 {
		t.Errorf("node's: %d", got)
	}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi")}
	if got := v.memorySize(p, &corev1.EmptyDirVolumeSource{}); got != 64<<20 {
		t.Errorf("pod's: %d", got)
	}
}

// A crash loses what is in memory: the next run finds and removes the leftovers, and a mounted directory's content
// (here the host's) is never removed.
func TestLeftoversAfterACrash(t *testing.T) {
	v, _ := setup(t)
	p := pod(corev1.Volume{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	paths := mount(t, v, p)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(v.dir(p, "empty-dir", "other"), "deep")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // stacked
		if err := unix.Mount(host, deep, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	again, err := New(v.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if uids, err := again.Pods(); err != nil || len(uids) != 1 || uids[0] != p.UID {
		t.Fatalf("Pods = %v, %v", uids, err)
	}
	if err := again.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(paths["mem"]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volume stays: %v", err)
	}
	if _, err := os.Stat(filepath.Join(host, "precious")); err != nil {
		t.Errorf("the host lost a file: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	v, _ := setup(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tc := range []struct {
		path string
		kind corev1.HostPathType
		err  string
	}{
		{dir, "", ""},
		{dir + "/nothing", "", ""},
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "is not a directory"},
		{dir + "/new/dir", corev1.HostPathDirectoryOrCreate, ""},
		{file, corev1.HostPathDirectoryOrCreate, "is not a directory"},
		{file, corev1.HostPathFile, ""},
		{dir, corev1.HostPathFile, "is not a file"},
		{dir + "/new/file", corev1.HostPathFileOrCreate, ""},
		{dir + "/sock", corev1.HostPathSocket, ""},
		{file, corev1.HostPathSocket, "is not a socket file"},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{dir + "/none", corev1.HostPathCharDev, "is not a character device"},
		{dir, "Odd", "invalid volume type"},
	} {
		p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind}}})
		err := v.Mount(t.Context(), p)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s as %q: %v, want %q", tc.path, tc.kind, err, tc.err)
		}
		if err := v.Unmount(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
	}
	for _, made := range []string{"/new/dir", "/new/file"} {
		if _, err := os.Stat(dir + made); err != nil {
			t.Error(err)
		}
	}
}

func TestClaims(t *testing.T) {
	v, c := setup(t)
	dir := t.TempDir()
	volume := func(name string, src corev1.PersistentVolumeSource) {
		pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}}
		pv.Spec.PersistentVolumeSource = src
		pv.Spec.ClaimRef = &corev1.ObjectReference{UID: "claim-" + "x"}
		c.volumes["pv-"+name] = pv
		pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "claim-x"}}
		pvc.Spec.VolumeName = pv.Name
		pvc.Status.Phase = corev1.ClaimBound
		c.claims[name] = pvc
	}
	c.claims, c.volumes = map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}
	volume("local", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}})
	volume("host", corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}})
	volume("csi", corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d.io"}})
	volume("nfs", corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}})
	volume("pending", corev1.PersistentVolumeSource{})
	c.claims["pending"].Status.Phase = corev1.ClaimPending
	volume("stolen", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}})
	c.volumes["pv-stolen"].Spec.ClaimRef.UID = "another"
	for name, want := range map[string]string{
		"local": "", "host": "", "csi": "not supported yet", "nfs": "no volume plugin matched", "pending": "is not bound",
		"stolen": "is not bound to PVC", "none": `persistentvolumeclaims "none" not found`,
	} {
		p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name, ReadOnly: true}}})
		err := v.Mount(t.Context(), p)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", name, err, want)
		case want == "":
			if m := v.entry(p.UID).mounted["v0"]; m.path != dir || !m.readOnly {
				t.Errorf("%s: %+v", name, m)
			}
			c.away(true)
			again, err := New(v.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Mount(t.Context(), p); err != nil || again.entry(p.UID).mounted["v0"].path != dir {
				t.Errorf("%s: after a restart without the API server: %v", name, err)
			}
			again.objects.Close()
			c.away(false)
		case !strings.HasPrefix(err.Error(), `MountVolume.SetUp failed for volume "v0" : `):
			t.Errorf("%s: %v", name, err)
		}
		if err := v.Unmount(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFSGroupChangePolicy(t *testing.T) {
	v, c := setup(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "file")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600), os.Symlink("/etc/passwd", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	c.claims = map[string]*corev1.PersistentVolumeClaim{"c": {ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}}
	c.volumes = map[string]*corev1.PersistentVolume{"pv": {Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{UID: "u"}, PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}}}}
	p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(77)), FSGroupChangePolicy: ptr(corev1.FSGroupChangeOnRootMismatch)}
	mount(t, v, p)
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | os.ModeSetgid | 0o775, filepath.Dir(file): os.ModeDir | os.ModeSetgid | 0o770, file: 0o660} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want || groupOf(info) != 77 {
			t.Errorf("%s: %v of group %d, want %v of 77 (%v)", path, info.Mode(), groupOf(info), want, err)
		}
	}
	if info, err := os.Stat("/etc/passwd"); err != nil || groupOf(info) == 77 {
		t.Error("a link was followed out of the volume")
	}
	if err := os.Lchown(file, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := applyFSGroup(p, dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(file); groupOf(info) != 0 {
		t.Error("OnRootMismatch walked although the root matches")
	}
	p.Spec.SecurityContext.FSGroupChangePolicy = nil
	if err := applyFSGroup(p, dir); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(file); groupOf(info) != 77 {
		t.Error("Always didn't walk")
	}
}

func TestRefreshAt(t *testing.T) {
	now := time.Unix(1000, 0)
	if got := refreshAt(now, now.Add(time.Hour)); got != now.Add(48*time.Minute) {
		t.Errorf("an hour's token is renewed at %v", got)
	}
	if got := refreshAt(now, now.Add(100*time.Hour)); got != now.Add(24*time.Hour) {
		t.Errorf("a long token is renewed at %v", got)
	}
}
