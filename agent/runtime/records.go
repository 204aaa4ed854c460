package runtime

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandboxRecord is a sandbox's checkpoint.
type sandboxRecord struct {
	ID         string   `json:"id"`
	BootID     string   `json:"bootID"`
	Config     []byte   `json:"config"` // cri.PodSandboxConfig
	Ready      bool     `json:"ready"`
	Creating   bool     `json:"creating,omitempty"` // RunPodSandbox hasn't finished
	CreatedAt  int64    `json:"createdAt"`
	NetPath    string   `json:"netPath,omitempty"`
	IPCPath    string   `json:"ipcPath,omitempty"`
	UTSPath    string   `json:"utsPath,omitempty"`
	UserPath   string   `json:"userPath,omitempty"`
	IPs        []string `json:"ips,omitempty"`
	Attached   bool     `json:"attached,omitempty"` // CNI ADD was called
	InitPid    int      `json:"initPid,omitempty"`
	InitStart  uint64   `json:"initStart,omitempty"`
	InitCgroup string   `json:"initCgroup,omitempty"`
	Handler    string   `json:"handler,omitempty"`
	labels
}

type sandbox struct {
	op     sync.Mutex // one lifecycle call at a time
	mu     sync.Mutex // guards rec
	rec    sandboxRecord
	config *cri.PodSandboxConfig // never changed after creation
}

// containerRecord is a container's checkpoint.
type containerRecord struct {
	ID         string   `json:"id"`
	SandboxID  string   `json:"sandboxID"`
	BootID     string   `json:"bootID"`
	Config     []byte   `json:"config,omitempty"` // cri.ContainerConfig
	ImageID    string   `json:"imageID"`
	ImageRef   string   `json:"imageRef"`
	ImageName  string   `json:"imageName"` // the tag, where there is one
	State      state    `json:"state"`
	Pid        int      `json:"pid,omitempty"`
	StartTime  uint64   `json:"startTime,omitempty"`
	CreatedAt  int64    `json:"createdAt"`
	StartedAt  int64    `json:"startedAt,omitempty"`
	FinishedAt int64    `json:"finishedAt,omitempty"`
	ExitCode   int32    `json:"exitCode,omitempty"`
	Reason     string   `json:"reason,omitempty"`
	Message    string   `json:"message,omitempty"`
	Cgroup     string   `json:"cgroup"`
	SharedPID  bool     `json:"sharedPID,omitempty"` // its init's death doesn't end its other processes
	UID        uint32   `json:"uid"`
	GID        uint32   `json:"gid"`
	Groups     []uint32 `json:"groups,omitempty"`
	StopSignal int      `json:"stopSignal"`
	Resources  []byte   `json:"resources,omitempty"`
	labels
	_ [0]func() // no comparing
}

type state string

const (
	stateCreated  state = "created"
	stateStarting state = "starting"
	stateRunning  state = "running"
	stateExited   state = "exited"
)

func newID() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}

func (s *Service) recordPath(kind, id string) string {
	return filepath.Join(s.cfg.DataDir, "state", kind+"-"+id)
}

// save replaces a checkpoint atomically. It isn't synced: after a power cut every process it speaks of is gone, and a
// record that didn't make it is swept as a leftover.
func (s *Service) save(kind, id string, record any) error {
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("checkpoint of %s: %w", id, err)
	}
	path := s.recordPath(kind, id)
	err = os.WriteFile(path+".tmp", raw, 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		_ = os.Remove(path + ".tmp") // a full disk leaves half of it
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

func (s *Service) saveContainer(c *container) error {
	c.mu.Lock()
	rec := c.rec
	c.mu.Unlock()
	if rec.Config == nil {
		// Only what status needs is kept in memory; the rest of the configuration is not needed after the start.
		raw, err := proto.Marshal(c.config)
		if err != nil {
			return err
		}
		rec.Config = raw
	}
	return s.save("c", rec.ID, &rec)
}

func (s *Service) saveSandbox(sb *sandbox) error {
	sb.mu.Lock()
	rec := sb.rec
	sb.mu.Unlock()
	raw, err := proto.Marshal(sb.config)
	if err != nil {
		return err
	}
	rec.Config = raw
	return s.save("s", rec.ID, &rec)
}

func (s *Service) forget(kind, id string) error {
	if err := os.Remove(s.recordPath(kind, id)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
