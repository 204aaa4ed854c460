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

// busyboxLayer is a root of the host's static busybox.
func busyboxLayer() ([]byte, error) {
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
	err = tw.Close()
	return layer.Bytes(), err
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// imageConfig is the configuration of an image of one layer.
func imageConfig(config map[string]any, layer []byte) []byte {
	raw, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	return raw
}

// busyboxArchive is `docker save` of an image with the host's static busybox.
func busyboxArchive(name string) ([]byte, error) {
	layer, err := busyboxLayer()
	if err != nil {
		return nil, err
	}
	config := imageConfig(map[string]any{"Cmd": []string{"sh"}, "Env": []string{"FROM_IMAGE=yes", "PATH=/bin"}}, layer)
	manifest, _ := json.Marshal([]map[string]any{{"Config": sum(config) + ".json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	out := &bytes.Buffer{}
	tw := tar.NewWriter(out)
	for file, content := range map[string][]byte{sum(config) + ".json": config, "layer.tar": layer, "manifest.json": manifest} {
		_ = tw.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))})
		_, _ = tw.Write(content)
	}
	err = tw.Close()
	return out.Bytes(), err
}
