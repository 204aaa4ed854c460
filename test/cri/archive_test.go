package cri

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// busyboxArchive is `docker save` of an image with the host's static busybox.
func busyboxArchive(name string) ([]byte, error) {
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, errors.New("/bin/busybox is missing: install busybox-static")
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		_ = tw.WriteHeader(&h)
		_, _ = tw.Write(content)
	}
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/default-user"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		add(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: mode}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, binary)
	list, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644},
		[]byte("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/home/default-user:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nworker:x:1000:\ncrew:x:50000:worker\n"))
	_ = tw.Close()
	sum := func(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Cmd": []string{"sh"}, "Env": []string{"FROM_IMAGE=yes", "PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer.Bytes())}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	out := &bytes.Buffer{}
	tw = tar.NewWriter(out)
	for file, content := range map[string][]byte{sum(config) + ".json": config, "layer.tar": layer.Bytes(), "manifest.json": manifest} {
		add(tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644}, content)
	}
	return out.Bytes(), tw.Close()
}
