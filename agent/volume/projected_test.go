package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func configMapVolume(name string, optional bool, items ...corev1.KeyToPath) corev1.Volume {
	src := &corev1.ConfigMapVolumeSource{Items: items, Optional: &optional}
	src.Name = name
	return corev1.Volume{VolumeSource: corev1.VolumeSource{ConfigMap: src}}
}

func TestConfigMapFollowsItsObject(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"a": "1", "b": "2"})
	p := pod(configMapVolume("cm", false))
	dir := mount(t, v, p)["v0"]
	if got := read(t, dir+"/a") + read(t, dir+"/b"); got != "12" {
		t.Fatalf("content %q", got)
	}
	before, err := os.Readlink(dir + "/..data")
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(dir + "/a") // a reader in the middle keeps the old file
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	c.configMap("cm", map[string]string{"a": "new", "c": "3"})
	eventually(t, "the new content", func() bool { b, _ := os.ReadFile(dir + "/a"); return string(b) == "new" })
	eventually(t, "the removed key's link goes", func() bool { _, err := os.Lstat(dir + "/b"); return errors.Is(err, os.ErrNotExist) })
	if got := read(t, dir+"/c"); got != "3" {
		t.Errorf("c = %q", got)
	}
	if after, _ := os.Readlink(dir + "/..data"); after == before {
		t.Error("..data didn't move")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 { // ..data, its directory, a, c
		t.Errorf("the volume holds %v, %v", entries, err)
	}
	if err := v.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if n := v.objects.Followed(); n != 0 {
		t.Errorf("%d objects are still followed", n)
	}
}

func TestModesAndPaths(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"a": "1", "b": "2", "hidden": "x"})
	vol := configMapVolume("cm", false, corev1.KeyToPath{Key: "a", Path: "deep/er/file", Mode: ptr(int32(0o400))}, corev1.KeyToPath{Key: "b", Path: "b"})
	vol.ConfigMap.DefaultMode = ptr(int32(0o640))
	dir := mount(t, v, pod(vol))["v0"]
	for path, want := range map[string]os.FileMode{"deep/er/file": 0o400, "b": 0o640} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if _, err := os.Stat(dir + "/hidden"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a key that wasn't asked for is there")
	}
}

func TestMissingSources(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"a": "1"})
	for name, tc := range map[string]struct {
		vol  corev1.Volume
		want string
	}{
		"no object":       {configMapVolume("none", false), `MountVolume.SetUp failed for volume "v0" : configmap "none" not found`},
		"optional object": {configMapVolume("none", true), ""},
		"no key":          {configMapVolume("cm", false, corev1.KeyToPath{Key: "x", Path: "x"}), "configmap references non-existent config key: x"},
		"optional key":    {configMapVolume("cm", true, corev1.KeyToPath{Key: "x", Path: "x"}), ""},
		"path leads out":  {configMapVolume("cm", false, corev1.KeyToPath{Key: "a", Path: "b/../../x"}), "must not start with '..'"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pod(tc.vol)
			err := v.Mount(t.Context(), p)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if err := v.Unmount(t.Context(), p.UID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOptionalObjectAppearsLater(t *testing.T) {
	v, c := setup(t)
	dir := mount(t, v, pod(configMapVolume("late", true)))["v0"]
	c.configMap("late", map[string]string{"k": "v"})
	eventually(t, "the key", func() bool { b, _ := os.ReadFile(dir + "/k"); return string(b) == "v" })
}

func TestRetryTellsOfWhatAPodWaitsFor(t *testing.T) {
	v, c := setup(t)
	told := make(chan string, 4)
	v.cfg.Retry = func(uid types.UID) { told <- string(uid) }
	p := pod(configMapVolume("late", false))
	if err := v.Mount(t.Context(), p); err == nil {
		t.Fatal("mounted without its source")
	}
	c.configMap("late", map[string]string{"k": "v"})
	if uid := <-told; uid != string(p.UID) {
		t.Errorf("told of %s", uid)
	}
	mount(t, v, p)
}

func TestSecretsStayInMemory(t *testing.T) {
	v, c := setup(t)
	c.secret("s", map[string][]byte{"k": []byte("v")})
	p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}})
	dir := mount(t, v, p)["v0"]
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		t.Errorf("file system %x, %v", st.Type, err)
	}
	if got := read(t, dir+"/k"); got != "v" {
		t.Errorf("k = %q", got)
	}
	c.secret("s", map[string][]byte{"k": []byte("v2")})
	eventually(t, "the new content", func() bool { b, _ := os.ReadFile(dir + "/k"); return string(b) == "v2" })
}

func TestProjectedWithTokenAndDownwardAPI(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"ca.crt": "CA"})
	cm := corev1.ConfigMapProjection{}
	cm.Name = "cm"
	p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "aud", ExpirationSeconds: ptr(int64(3607))}},
		{ConfigMap: &cm},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.cpu", Divisor: resource.MustParse("1m")}},
		}}},
	}}}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000)), FSGroup: ptr(int64(10000))}
	dir := mount(t, v, p)["v0"]
	if got := read(t, dir+"/token"); got != "token-1 of ns/sa for [aud] to p" {
		t.Errorf("token %q", got)
	}
	if got := read(t, dir+"/labels") + read(t, dir+"/cpu") + read(t, dir+"/ca.crt"); got != `app="a"2000CA` {
		t.Errorf("content %q", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/token", &st); err != nil || st.Uid != 1000 || st.Gid != 10000 || st.Mode&0o777 != 0o640 {
		t.Errorf("token is %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	changed := p.DeepCopy()
	changed.Labels["app"] = "b"
	mount(t, v, changed)
	if got := read(t, dir+"/labels"); got != `app="b"` {
		t.Errorf("labels %q", got)
	}
	if c.tokens != 1 {
		t.Errorf("%d tokens asked for, want 1", c.tokens)
	}
}

func TestTokenRotationAndFailedRenewal(t *testing.T) {
	v, c := setup(t)
	c.life = 300 * time.Millisecond // renewed after 240 ms
	p := pod(corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}}})
	dir := mount(t, v, p)["v0"]
	eventually(t, "a second token", func() bool { return strings.HasPrefix(read(t, dir+"/token"), "token-2") })
	c.mu.Lock()
	c.tokenErr = errors.New("the server is away")
	c.mu.Unlock()
	time.Sleep(400 * time.Millisecond)
	if got := read(t, dir+"/token"); !strings.HasPrefix(got, "token-") {
		t.Errorf("after a failed renewal: %q", got)
	}
	if err := v.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if err := v.Mount(t.Context(), p); err == nil || !strings.Contains(err.Error(), "failed to fetch token: the server is away") {
		t.Errorf("a new pod: %v", err)
	}
}

func TestAtomicWriterHealsACrash(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"a": {data: []byte("1"), mode: 0o644, uid: -1}}
	if err := writeAtomically(dir, files, -1); err != nil {
		t.Fatal(err)
	}
	// As if killed after the rename, before the links; and with a half-written next directory.
	if err := errors.Join(os.Remove(dir+"/a"), os.MkdirAll(dir+"/..mote_half/x", 0o755), os.Symlink("x", dir+"/..data_tmp")); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Readlink(dir + "/..data")
	if err := writeAtomically(dir, files, -1); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Readlink(dir + "/..data"); after != before {
		t.Error("the same content was written again")
	}
	if got := read(t, dir+"/a"); got != "1" {
		t.Errorf("a = %q", got)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left: %v", entries)
	}
}

// The agent starts anew while the API server is away: what the last run made is used on.
func TestRestartWithoutAPIServer(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"k": "old"})
	p := pod(configMapVolume("cm", false), tokenVolume())
	paths := mount(t, v, p)
	c.away(true)
	again, err := New(v.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer again.objects.Close()
	if err := again.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := read(t, paths["v0"]+"/k") + read(t, paths["v1"]+"/token")[:7]; got != "oldtoken-1" {
		t.Errorf("content %q", got)
	}
	fresh := pod(configMapVolume("cm", false))
	fresh.UID = "uid-2"
	if err := again.Mount(t.Context(), fresh); err == nil {
		t.Error("a new pod starts without its ConfigMap")
	}
	if err := again.Unmount(t.Context(), fresh.UID); err != nil {
		t.Fatal(err)
	}
}

// After a reboot without the API server, a pod is kept waiting for a while only; its token follows.
func TestFirstStartWithoutAPIServer(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	v, c := setupAt(t, func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	later := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock(); v.poke() }
	c.away(true)
	p := pod(tokenVolume())
	if err := v.Mount(t.Context(), p); err == nil {
		t.Fatal("no patience at all")
	}
	later(offlineAfter)
	if err := v.Mount(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := v.entry(p.UID).mounted["v0"].path
	if _, err := os.Stat(dir + "/token"); err == nil {
		t.Error("a token out of nothing")
	}
	c.away(false)
	later(retryAfter)
	eventually(t, "the token", func() bool { b, _ := os.ReadFile(dir + "/token"); return len(b) > 0 })
}

func tokenVolume() corev1.Volume {
	return corev1.Volume{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
	}}}}
}
