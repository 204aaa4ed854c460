package volume

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/criconfig"
)

// A container may have put anything in the place of the file that another's environment comes from.
func TestEmptyDirFile(t *testing.T) {
	v, c := setup(t)
	c.configMap("cm", map[string]string{"f": "A='1'"})
	p := pod(corev1.Volume{Name: "dir", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, configMapVolume("cm", false))
	dir := mount(t, v, p)["dir"]
	outside := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(
		os.WriteFile(outside, []byte("A='host'"), 0o600),
		os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(filepath.Join(dir, "sub", "f"), []byte("A='1'"), 0o600),
		os.Symlink("sub/f", filepath.Join(dir, "inside")),
		os.Symlink(outside, filepath.Join(dir, "absolute")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o666),
		os.WriteFile(filepath.Join(dir, "big"), make([]byte, maxEnvFile+1), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ volume, path, want, err string }{
		{"dir", "sub/f", "A='1'", ""},
		{"dir", "inside", "A='1'", ""},
		{"dir", "absolute", "", "not within volume path"},
		{"dir", "none", "", criconfig.ErrNoFile.Error()},
		{"dir", "sub", "", "not a regular file"},
		{"dir", "pipe", "", "not a regular file"},
		{"dir", "big", "", "not a regular file of at most"},
		{"dir", "../x", "", "stay inside"},
		{"dir", "/etc/passwd", "", "must be relative"},
		{"cm", "f", "", "cannot find the volume"},
		{"gone", "f", "", "cannot find the volume"},
	} {
		got, err := v.EmptyDirFile(p, tc.volume, tc.path)
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s in %s: %q, %v; want %q, %q", tc.path, tc.volume, got, err, tc.want, tc.err)
		}
	}
}
