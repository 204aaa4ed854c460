package runtime

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	Config     []byte   `json:"config,omitempty"` // cri.PodSandboxConfig
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
	op      sync.Mutex // one lifecycle call at a time
	mu      sync.Mutex // guards rec
	rec     sandboxRecord
	config  *cri.PodSandboxConfig // never changed after creation
	journal journal
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

// A record is a file of lines of JSON, one more for each change; the last one counts. The first has the configuration, which is
// most of a record and hardly changes: a later line without one means that of the lines before it. So a change makes no new
// file, which is what small devices' storage and file systems pay for most, and a kill or a power cut breaks off the newest
// line at most. Nothing is synced: after a power cut every process that records speak of is gone, and what has no record is
// swept as a leftover.

// maxLines is when a record is written anew: a container can be resized any number of times.
const maxLines = 64

// journal is what is known of a record's file.
type journal struct {
	sync.Mutex     // one change at a time, in the order in which they were made
	lines      int // 0: there is no file
}

// save adds a record's state to its file. The configuration is only in the first line, or where changed says so.
func (j *journal) save(path string, record any, config *[]byte, message proto.Message, changed bool) error {
	fresh := j.lines == 0 || j.lines >= maxLines
	var file *os.File
	var err error
	if !fresh {
		if file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); errors.Is(err, os.ErrNotExist) {
			fresh = true // lost; what is known is written down again
		} else if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	if fresh || changed {
		if *config, err = proto.Marshal(message); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
	}
	line, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	line = append(line, '\n')
	if !fresh {
		defer file.Close()
		if err := appendLine(file, line); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		j.lines++
		return nil
	}
	if err := writeRecord(path, line, j.lines > 0); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	j.lines = 1
	return nil
}

// appendLine adds a line whole or not at all.
func appendLine(file *os.File, line []byte) error {
	n, err := file.Write(line)
	if err == nil || n == 0 {
		return err
	}
	// A full disk took half of it.
	end, seekErr := file.Seek(0, io.SeekEnd)
	if seekErr == nil {
		seekErr = file.Truncate(end - int64(n))
	}
	return errors.Join(err, seekErr)
}

// writeRecord writes a record's first line. One that there may be already is replaced as a whole.
func writeRecord(path string, line []byte, replace bool) error {
	target := path
	if replace {
		target += ".tmp"
	}
	err := os.WriteFile(target, line, 0o600)
	if err == nil && replace {
		err = os.Rename(target, path)
	}
	if err != nil {
		_ = os.Remove(target) // a full disk leaves half of it
	}
	return err
}

// readRecord takes a record's last whole line into record, and the configuration from the last line that has one into config. It
// returns what is known of the file then.
func readRecord(raw []byte, record any, config *[]byte) (lines int, err error) {
	whole := raw
	if end := bytes.LastIndexByte(raw, '\n'); end >= 0 {
		whole = raw[:end]
	}
	each := bytes.Split(whole, []byte("\n"))
	if err := json.Unmarshal(each[len(each)-1], record); err != nil {
		return 0, err
	}
	for i := len(each) - 1; i >= 0 && len(*config) == 0; i-- {
		var line struct {
			Config []byte `json:"config"`
		}
		if err := json.Unmarshal(each[i], &line); err != nil {
			return 0, err
		}
		*config = line.Config
	}
	if len(whole)+1 != len(raw) {
		return maxLines, nil // a line was broken off: the next change writes it all anew
	}
	return len(each), nil
}

func (s *Service) saveContainer(c *container) error { return s.saveContainerWith(c, false) }

// saveContainerWith also writes the configuration again when it changed.
func (s *Service) saveContainerWith(c *container, changed bool) error {
	c.journal.Lock()
	defer c.journal.Unlock()
	c.mu.Lock()
	rec := c.rec
	c.mu.Unlock()
	return c.journal.save(s.recordPath("c", rec.ID), &rec, &rec.Config, c.config, changed)
}

func (s *Service) saveSandbox(sb *sandbox) error {
	sb.journal.Lock()
	defer sb.journal.Unlock()
	sb.mu.Lock()
	rec := sb.rec
	sb.mu.Unlock()
	return sb.journal.save(s.recordPath("s", rec.ID), &rec, &rec.Config, sb.config, false)
}

func (s *Service) forget(kind, id string) error {
	if err := os.Remove(s.recordPath(kind, id)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
