package cri

import (
	"os"
	"strings"
	"testing"
	"time"

	api "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The log format of CRI: time, stream, tag, text; a line without an end is partial until its last piece.
func TestLogFormat(t *testing.T) {
	p := newPod(t)
	c := p.run("echo to out; echo to err >&2; head -c 20000 /dev/zero | tr '\\0' y; echo")
	c.wait()
	raw, err := os.ReadFile(c.logPath)
	if err != nil {
		t.Fatal(err)
	}
	streams, tags := map[string]string{}, ""
	for line := range strings.Lines(string(raw)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 {
			t.Fatalf("line %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, fields[0]); err != nil {
			t.Errorf("line %.60q: %v", line, err)
		}
		streams[fields[1]] += fields[3]
		tags += fields[2]
	}
	if streams["stdout"] != "to out"+strings.Repeat("y", 20000) || streams["stderr"] != "to err" {
		t.Errorf("stdout %d bytes, stderr %q", len(streams["stdout"]), streams["stderr"])
	}
	if !strings.Contains(tags, "P") || !strings.HasSuffix(tags, "F") {
		t.Errorf("tags %s", tags)
	}
	if _, err := shared.rt.ReopenContainerLog(testContext(t), &api.ReopenContainerLogRequest{ContainerId: c.id}); err == nil {
		t.Error("the log of an ended container was reopened")
	}
}

// A terminal has one stream; its log says stdout.
func TestTerminalLog(t *testing.T) {
	p := newPod(t)
	c := p.run("tty >/dev/null && echo terminal; echo error >&2", func(c *api.ContainerConfig) { c.Tty = true })
	c.wait()
	raw, err := os.ReadFile(c.logPath)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(raw); strings.Count(text, " stdout F ") != 2 || strings.Contains(text, " stderr ") || !strings.Contains(text, "terminal") {
		t.Errorf("%q", text)
	}
}

// A container may have no log at all.
func TestNoLog(t *testing.T) {
	p := newPod(t, func(c *api.PodSandboxConfig) { c.LogDirectory = "" })
	config := containerConfig("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; exit 5")
	config.LogPath = ""
	if st := p.start(config).wait(); st.ExitCode != 5 {
		t.Errorf("it ended with %d", st.ExitCode)
	}
}
