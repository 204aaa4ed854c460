package cri

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What an administrator types, with the short IDs that crictl prints.
func TestCrictl(t *testing.T) {
	needsControllers(t)
	program := filepath.Join(peers(), "crictl")
	if _, err := os.Stat(program); err != nil {
		t.Skip("there is no crictl: test/peers/build makes it")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "crictl.yaml"), fmt.Appendf(nil, "timeout: %d\n", seconds(10)), 0o600); err != nil {
		t.Fatal(err)
	}
	crictl := func(words ...string) string {
		t.Helper()
		cmd := shared.in(append([]string{program, "--config", filepath.Join(dir, "crictl.yaml"), "-r", "unix://" + shared.socket, "-i", "unix://" + shared.socket}, words...)...)
		cmd.Dir = dir
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("crictl %s: %v: %s%s", strings.Join(words, " "), err, out, errs.String())
		}
		return string(out)
	}
	write := func(name string, content any) string {
		t.Helper()
		raw, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// crictl reads the fields' Go names in its JSON, as the API's examples have them.
	config := podConfig(t)
	pod := write("pod.json", map[string]any{
		"metadata": map[string]any{"name": "crictl", "namespace": "test", "uid": "u"}, "log_directory": config.LogDirectory,
		"linux": map[string]any{"cgroup_parent": config.Linux.CgroupParent, "security_context": map[string]any{"namespace_options": map[string]any{"network": 2}}},
	})
	ctr := write("ctr.json", map[string]any{
		"metadata": map[string]any{"name": "shell"}, "image": map[string]any{"image": testImage}, "log_path": "shell.log",
		"command": []string{"sh", "-c", "echo from inside; sleep 1000"}, "linux": map[string]any{},
	})
	podID := strings.TrimSpace(crictl("runp", pod))
	t.Cleanup(func() {
		_, _ = shared.rt.RemovePodSandbox(testContext(t), &api.RemovePodSandboxRequest{PodSandboxId: podID})
	})
	id := strings.TrimSpace(crictl("create", podID[:13], ctr, pod))
	short := id[:13]
	crictl("start", short)
	eventually(t, "the log", func() bool { return strings.Contains(crictl("logs", short), "from inside") })
	for _, test := range []struct {
		words []string
		want  string
	}{
		{[]string{"version"}, "RuntimeApiVersion:  v1"},
		{[]string{"info"}, "RuntimeReady"},
		{[]string{"runtime-config"}, "CGROUPFS"},
		{[]string{"ps"}, short},
		{[]string{"ps", "--id", short, "-o", "json"}, id},
		{[]string{"ps", "--pod", podID[:13], "-q"}, id},
		{[]string{"ps", "--name", "^shell$", "--image", testImage, "-q"}, id},
		{[]string{"pods", "--name", "^crictl$", "--state", "Ready", "-q"}, podID},
		{[]string{"inspect", short}, `"name": "shell"`},
		{[]string{"inspect", "-o", "go-template", "--template", "{{.status.state}}", short}, "CONTAINER_RUNNING"},
		{[]string{"inspectp", podID[:13]}, `"state": "SANDBOX_READY"`},
		{[]string{"exec", "-s", short, "echo", "synchronous"}, "synchronous"},
		{[]string{"exec", short, "echo", "streamed"}, "streamed"},
		{[]string{"exec", "--transport", "spdy", short, "hostname"}, ""},
		{[]string{"stats", "-o", "json", "--id", short}, id},
		{[]string{"stats", "-a"}, short},
		{[]string{"statsp", "--id", podID[:13]}, podID[:13]},
		{[]string{"images"}, "docker.io/library/busybox"},
		{[]string{"images", "-q"}, ""},
		{[]string{"inspecti", testImage}, `"repoTags"`},
		{[]string{"imagefsinfo"}, "imageFilesystems"},
		{[]string{"update", "--memory", "104857600", short}, id[:13]},
		{[]string{"stop", short}, id[:13]},
		{[]string{"ps", "-a", "--state", "Exited", "-q"}, id},
		{[]string{"rm", short}, id[:13]},
		{[]string{"stopp", podID[:13]}, podID[:13]},
		{[]string{"rmp", podID[:13]}, podID[:13]},
	} {
		if got := crictl(test.words...); !strings.Contains(got, test.want) {
			t.Errorf("crictl %s says\n%s\nwithout %q", strings.Join(test.words, " "), got, test.want)
		}
	}
	if left := crictl("pods", "--id", podID, "-q"); strings.TrimSpace(left) != "" {
		t.Errorf("after rmp: %s", left)
	}
	if shared.kind == "mote" {
		if got := crictl("metricdescs"); !strings.Contains(got, "container_cpu_usage_seconds_total") {
			t.Errorf("metric descriptors: %s", got)
		}
		crictl("metricsp")
	}
}
