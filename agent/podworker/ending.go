package podworker

import (
	"errors"
	"os"
	"path/filepath"
	"time"
)

// What an agent notes of a pod's end under way, so that the next one finishes it instead of beginning anew: when the end
// began, and whose preStop hooks have run. The notes lie in the pod's directory and go with it.
//
//	<pods>/<uid>/ending                    its modification time is when the end began
//	<pods>/<uid>/containers/<name>/<id>.hooked   the container's preStop hook has run
const endingNote = "ending"

// noteEnding keeps the time at which the end began. Without the note, a restarted agent gives the whole grace period
// again, which is late but harmless: an error is no reason to do anything else.
func (m *Manager) noteEnding(w *worker, at time.Time) {
	dir := m.podDir(w.uid)
	path := filepath.Join(dir, endingNote)
	if _, err := os.Lstat(path); err == nil {
		return
	}
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err == nil {
		err = os.Chtimes(path, at, at)
	}
	if err != nil {
		m.log.Warn("begin of a pod's end not noted: after a restart its grace period begins anew", "pod", ref(w.pod), "err", err)
	}
}

// endingSince is when an agent before this one began to end the pod; zero if none did.
func (m *Manager) endingSince(w *worker) time.Time {
	info, err := os.Lstat(filepath.Join(m.podDir(w.uid), endingNote))
	if err != nil {
		return time.Time{}
	}
	if now := m.now(); info.ModTime().After(now) { // the clock was set back
		return now
	}
	return info.ModTime()
}

func (m *Manager) forgetEnding(w *worker) {
	if err := os.Remove(filepath.Join(m.podDir(w.uid), endingNote)); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Warn("note of a pod's end not removed: after a restart its next one is cut short", "pod", ref(w.pod), "err", err)
	}
}

func (m *Manager) hookNote(w *worker, container, id string) string {
	return filepath.Join(m.podDir(w.uid), container+"."+id+".hooked")
}

func (m *Manager) noteHooked(w *worker, container, id string) {
	path := m.hookNote(w, container, id)
	err := os.MkdirAll(filepath.Dir(path), 0o750)
	if err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		m.log.Warn("run of a preStop hook not noted: after a restart it runs again", "pod", ref(w.pod), "container", container, "err", err)
	}
}

func (m *Manager) hooked(w *worker, container, id string) bool {
	_, err := os.Lstat(m.hookNote(w, container, id))
	return err == nil
}

func (m *Manager) forgetHooked(w *worker, container, id string) {
	if err := os.Remove(m.hookNote(w, container, id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.log.Debug("note of a preStop hook not removed", "err", err)
	}
}
