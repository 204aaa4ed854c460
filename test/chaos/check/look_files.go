package check

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func names(dir string) (out []string) {
	entries, _ := os.ReadDir(dir) // one that isn't there is empty
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func (n Node) files(s *State) error {
	data, run := n.Dirs.Runtime(), n.Dirs.Run
	s.Pins = names(n.Dirs.Netns())
	s.Records = names(filepath.Join(data, "state"))
	s.Snapshots = names(filepath.Join(data, "snapshots"))
	for _, dir := range []string{"ns", "sandboxes", "ctr", "runc"} {
		s.RunDirs[dir] = names(filepath.Join(run, dir))
	}
	for _, name := range names(filepath.Join(n.Dirs.Agent(), "desired")) {
		if uid, ok := strings.CutSuffix(name, ".pod"); ok {
			s.Desired = append(s.Desired, uid)
		}
	}
	s.PodDirs = append(names(filepath.Join(n.Dirs.Agent(), "pods")), names(n.Dirs.Hosts())...)
	s.Volumes = names(filepath.Join(run, "volumes"))
	s.LogDirs = names(n.PodLogDir)
	links := filepath.Join(filepath.Dir(n.PodLogDir), "containers")
	for _, name := range names(links) {
		to, _ := filepath.EvalSymlinks(filepath.Join(links, name))
		s.LogLinks[name] = to // "" if it leads nowhere
	}
	return errors.Join(n.attachments(s), n.temporary(s))
}

// attachments reads the CNI plugin's store.
func (n Node) attachments(s *State) error {
	dir := filepath.Join(n.Dirs.CNIState(), "mote")
	for _, name := range names(filepath.Join(dir, "attachments")) {
		id, _, _ := strings.Cut(name, "@")
		s.Attachments = append(s.Attachments, id)
		var rec struct{ Ports []any }
		raw, err := os.ReadFile(filepath.Join(dir, "attachments", name))
		if err == nil && json.Unmarshal(raw, &rec) == nil && len(rec.Ports) > 0 {
			s.HostPorts[id] = true
		}
	}
	for _, ip := range names(filepath.Join(dir, "addresses")) {
		to, err := os.Readlink(filepath.Join(dir, "addresses", ip))
		if err != nil {
			return err
		}
		s.Addresses[ip], _, _ = strings.Cut(filepath.Base(to), "@")
	}
	return nil
}

// temporary finds what a cut-off write leaves, and sockets and FIFOs.
func (n Node) temporary(s *State) error {
	for _, root := range []string{n.Dirs.Data, n.Dirs.Run} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			rel, _ := filepath.Rel(n.Root, path)
			if d.IsDir() {
				switch {
				case d.Name() == "layers" || d.Name() == "snapshots" || d.Name() == "server": // images' and containers' own files; the datastore's
					return filepath.SkipDir
				case path == filepath.Join(n.Dirs.Agent(), "pods") || path == filepath.Join(n.Dirs.Run, "volumes"): // pods' own files
					return filepath.SkipDir
				case strings.HasPrefix(d.Name(), ".tmp"):
					s.Temporary = append(s.Temporary, rel)
				}
				return nil
			}
			switch name := d.Name(); {
			case d.Type()&fs.ModeSocket != 0:
				s.Sockets = append(s.Sockets, name)
			case d.Type()&fs.ModeNamedPipe != 0:
				if containerID.FindString(path) == "" { // libcontainer's start gate goes with its directory
					s.Temporary = append(s.Temporary, rel)
				}
			case strings.HasPrefix(name, ".tmp") || strings.HasPrefix(name, ".new") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".new") || strings.HasSuffix(name, "~"):
				s.Temporary = append(s.Temporary, rel)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
