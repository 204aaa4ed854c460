package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

func TestSubPath(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"key": "content"})
	p := pod(
		corev1.Volume{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		configMapVolume("cm", false),
	)
	p.Spec.Volumes[1].Name = "cm"
	dir := mount(t, v, p)["dir"]
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), []byte("host"), 0o600),
		os.Mkdir(filepath.Join(dir, "real"), 0o755),
		os.Symlink("real", filepath.Join(dir, "inside")),
		os.Symlink(outside, filepath.Join(dir, "absolute")),
		os.Symlink("../../../../../../../..", filepath.Join(dir, "up")),
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	mounts := func(vm corev1.VolumeMount) (string, error) {
		vm.MountPath = "/m"
		out, err := v.ContainerMounts(t.Context(), p, &corev1.Container{Name: "c", VolumeMounts: []corev1.VolumeMount{vm}}, func(s string) (string, error) {
			if strings.Contains(s, "$(MISSING)") {
				return "", errors.New("missing value for MISSING")
			}
			return strings.ReplaceAll(s, "$(POD)", "expanded"), nil
		})
		if err != nil {
			return "", err
		}
		return out[0].HostPath, nil
	}
	for _, tc := range []struct {
		mount corev1.VolumeMount
		err   string
	}{
		{corev1.VolumeMount{Name: "dir", SubPath: "real"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPath: "inside"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPath: "made/on/demand"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPath: "inside/below/the/link"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPathExpr: "logs/$(POD)"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPath: "file"}, ""},
		{corev1.VolumeMount{Name: "cm", SubPath: "key"}, ""},
		{corev1.VolumeMount{Name: "dir", SubPath: "absolute"}, "not within volume path"},
		{corev1.VolumeMount{Name: "dir", SubPath: "absolute/secret"}, "not within volume path"},
		{corev1.VolumeMount{Name: "dir", SubPath: "absolute/new"}, "not within volume path"},
		{corev1.VolumeMount{Name: "dir", SubPath: "up/etc"}, "not within volume path"},
		{corev1.VolumeMount{Name: "dir", SubPath: "../x"}, "must not contain '..'"},
		{corev1.VolumeMount{Name: "dir", SubPath: "/etc"}, "must not be an absolute path"},
		{corev1.VolumeMount{Name: "dir", SubPathExpr: "$(MISSING)"}, "missing value"},
		{corev1.VolumeMount{Name: "none"}, "volume is missing"},
	} {
		name := tc.mount.SubPath + tc.mount.SubPathExpr
		host, err := mounts(tc.mount)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: %v, want %q", name, err, tc.err)
			continue
		}
		if err != nil {
			continue
		}
		if is, err := isMount(host); err != nil || !is {
			t.Errorf("%s: %s is no mount (%v)", name, host, err)
		}
	}
	if host, err := mounts(corev1.VolumeMount{Name: "cm", SubPath: "key"}); err != nil || read(t, host) != "content" {
		t.Errorf("a key as subPath: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "made/on"), &st); err != nil || st.Mode&0o7777 != 0o777 {
		t.Errorf("made directories have mode %o, %v", st.Mode, err)
	}
	if err := v.Unmount(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil {
		t.Error("a file outside is gone")
	}
}
