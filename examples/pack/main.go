// Command pack makes an image archive out of one static program, in the format of `docker save`, without a builder or a
// registry: pack -o hello.tar -ref example.com/hello:1 PROGRAM.
//
// Reads:  the program.
// Writes: the archive.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	out := flag.String("o", "image.tar", "archive to write")
	ref := flag.String("ref", "", "the image's name")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the program")
	flag.Parse()
	if *ref == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "pack -o ARCHIVE -ref NAME PROGRAM: name the image and one program")
		os.Exit(1)
	}
	if err := pack(*out, *ref, *arch, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

type file struct {
	name string
	mode int64
	data []byte
}

func pack(out, ref, arch, program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	name := filepath.Base(program)
	layer, err := archive(file{name, 0o755, data})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/" + name}, "User": "65534:65534"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	image, err := archive(file{"config.json", 0o644, config}, file{"layer.tar", 0o644, layer}, file{"manifest.json", 0o644, manifest})
	if err != nil {
		return err
	}
	return os.WriteFile(out, image, 0o644)
}

func archive(files ...file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
