package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestCDI: Container Device Interface 0.6. The description is in the registry that every runtime looks at.
func TestCDI(t *testing.T) {
	const registry = "/run/cdi"
	if err := os.Mkdir(registry, 0o755); err == nil {
		t.Cleanup(func() { _ = os.Remove(registry) })
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lib"), []byte("library\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	kind := fmt.Sprintf("mote.test/thing%d", os.Getpid())
	text := fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":%q,
		"containerEdits":{"env":["THING_VENDOR=mote"]},
		"devices":[
			{"name":"log","containerEdits":{
				"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/loop-control","type":"c","major":10,"minor":237,"permissions":"w"}],
				"env":["THING=log"],
				"mounts":[{"hostPath":%q,"containerPath":"/usr/lib/thing","options":["ro","bind"]}]}},
			{"name":"full","containerEdits":{"deviceNodes":[{"path":"/dev/full2","hostPath":"/dev/full"}]}}]}`, kind, dir)
	file := filepath.Join(registry, fmt.Sprintf("mote-test-%d.json", os.Getpid()))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(file) })
	want := func(names ...string) func(*api.ContainerConfig) {
		return func(c *api.ContainerConfig) {
			for _, n := range names {
				c.CDIDevices = append(c.CDIDevices, &api.CDIDevice{Name: kind + "=" + n})
			}
		}
	}

	p := newPod(t)
	got := p.output(`echo $THING $THING_VENDOR; cat /usr/lib/thing/lib; (: > /dev/thing) && echo opened; (: < /dev/thing) 2>&1; (echo x > /dev/full2) 2>&1; touch /usr/lib/thing/x 2>&1`, want("log", "full"))
	for _, part := range []string{
		"log mote\n", "library\n", "opened\n", "/dev/thing: Operation not permitted", "No space left", "Read-only",
	} {
		if !strings.Contains(got, part) {
			t.Errorf("no %q in %q", part, got)
		}
	}
	if got := p.output("ls /dev/thing /usr/lib/thing 2>&1; echo $THING", func(*api.ContainerConfig) {}); !strings.Contains(got, "/dev/thing: No such file") {
		t.Errorf("without the device: %q", got)
	}

	config := containerConfig("true")
	want("absent")(config)
	_, err := shared.rt.CreateContainer(testContext(t), &api.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err == nil || !strings.Contains(err.Error(), "unresolvable CDI devices "+kind+"=absent") {
		t.Errorf("an unknown device: %v", err)
	}
}
