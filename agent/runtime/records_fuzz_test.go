package runtime

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A checkpoint that a bad disk has damaged is dropped with an error, or is whole enough to work with.
func FuzzRecords(f *testing.F) {
	pod, err := proto.Marshal(&cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: "p", Uid: "u"}})
	if err != nil {
		f.Fatal(err)
	}
	container, err := proto.Marshal(&cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "c"}, Image: &cri.ImageSpec{Image: "i"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"id":"a","bootID":"b"}`), pod)
	f.Add([]byte(`{"id":"a","sandboxID":"b","state":"running","pid":1}`), container)
	f.Add([]byte(`{"id":"a","config":"AAAA"}`), []byte(nil))
	f.Add([]byte(``), []byte{0xff})
	f.Add([]byte("{\"id\":\"a\",\"config\":\"CgMKAXA=\"}\n{\"id\":\"a\",\"ready\":true}\n{\"id"), []byte(nil)) // a line was broken off
	f.Add([]byte("{\"id\":\"a\"}\n\n{\"id\":\"a\",\"state\":\"exited\"}"), container)
	f.Fuzz(func(t *testing.T, record, config []byte) {
		raw := record
		if len(config) > 0 && len(record) > 2 && record[len(record)-1] == '}' {
			text, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(append(append([]byte{}, record[:len(record)-1]...), `,"config":`...), append(text, '}')...)
		}
		s := &Service{sandboxes: map[string]*sandbox{}, names: map[string]string{}}
		if err := s.loadSandbox(raw, "a"); err == nil {
			for id, sb := range s.sandboxes {
				if id != "a" || sb.config.GetMetadata() == nil {
					t.Errorf("a sandbox of another ID or without a name: %s", raw)
				}
			}
		}
		if c, err := loadContainer(raw, "a"); err == nil {
			_ = c.status()
			_ = containerName(c.config, c.rec.SandboxID)
			if c.rec.ID != "a" || c.config.GetMetadata() == nil {
				t.Errorf("a container without ID or name: %s", raw)
			}
		}
	})
}
