package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/mote-edge/mote/agent/cri"
	"github.com/mote-edge/mote/agent/logs"
)

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	opt, previous, err := logOptions(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	pod, ok := s.cfg.Pods.Pod(r.PathValue("namespace"), r.PathValue("pod"))
	if !ok {
		http.Error(w, fmt.Sprintf("pod %q does not exist", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	name := r.PathValue("container")
	if !declares(pod, name) {
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", name, pod.Name), http.StatusNotFound)
		return
	}
	c, err := s.logOf(pod, name, previous)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := c.LogPath
	if !filepath.IsAbs(path) {
		path = filepath.Join(s.cfg.PodLogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID), path)
	}
	opt.Running = func() bool {
		now := s.cfg.Pods.Cache().Get(pod.UID)
		latest := now.ByID(c.ID)
		return latest != nil && latest.State != cri.Exited
	}
	out := &lazyWriter{ResponseWriter: w}
	control := http.NewResponseController(w)
	err = logs.Read(r.Context(), path, opt, out, func() {
		if opt.Follow {
			out.begin()
			_ = control.Flush()
		}
	})
	if err != nil && !out.begun {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// lazyWriter lets an error that comes before the first byte still become a status.
type lazyWriter struct {
	http.ResponseWriter
	begun bool
}

func (l *lazyWriter) begin() {
	if !l.begun {
		l.begun = true
		l.Header().Set("Content-Type", "text/plain")
	}
}

func (l *lazyWriter) Write(b []byte) (int, error) {
	l.begin()
	return l.ResponseWriter.Write(b)
}

func declares(pod *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// logOf picks the attempt whose log is asked for: the newest that has run, or the one before it.
func (s *Server) logOf(pod *corev1.Pod, name string, previous bool) (*cri.Container, error) {
	observed := s.cfg.Pods.Cache().Get(pod.UID)
	var attempts []*cri.Container // that have started, oldest first
	for _, c := range observed.Containers {
		if c.Name == name && (c.State != cri.Created || c.StartedAt > 0) {
			attempts = append(attempts, c)
		}
	}
	if previous {
		// With a newer attempt running, the one before it; while the container waits for its restart, the last that ended.
		n := len(attempts) - 1
		if n >= 0 && (attempts[n].State == cri.Running || !restarting(pod, name)) {
			n--
		}
		if n < 0 {
			return nil, fmt.Errorf("previous terminated container %q in pod %q not found", name, pod.Name)
		}
		return attempts[n], nil
	}
	if n := len(attempts); n > 0 {
		return attempts[n-1], nil
	}
	reason := "ContainerCreating"
	if st := statusOf(pod, name); st != nil && st.State.Waiting != nil && st.State.Waiting.Reason != "" {
		reason = st.State.Waiting.Reason
	}
	switch reason {
	case "ErrImagePull":
		reason = "image can't be pulled"
	case "ImagePullBackOff":
		reason = "trying and failing to pull image"
	}
	return nil, fmt.Errorf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
}

func restarting(pod *corev1.Pod, name string) bool {
	st := statusOf(pod, name)
	return st != nil && st.State.Waiting != nil
}

func statusOf(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// logOptions reads the query of a log request.
func logOptions(q url.Values) (opt logs.Options, previous bool, err error) {
	opt = logs.Options{Follow: isOn(q.Get("follow")), Timestamps: isOn(q.Get("timestamps")), Tail: -1, Stdout: true, Stderr: true}
	number := func(name string) (int64, bool) {
		text := q.Get(name)
		if text == "" || err != nil {
			return 0, false
		}
		var n int64
		if n, err = strconv.ParseInt(text, 10, 64); err != nil || n < 0 {
			err = fmt.Errorf("%s: %q is not a number of 0 or more", name, text)
			return 0, false
		}
		return n, true
	}
	if n, ok := number("tailLines"); ok {
		opt.Tail = n
	}
	if n, ok := number("limitBytes"); ok {
		if n == 0 {
			return opt, false, errors.New("limitBytes: must be greater than 0")
		}
		opt.Limit = n
	}
	if n, ok := number("sinceSeconds"); ok {
		opt.Since = time.Now().Add(-time.Duration(n) * time.Second)
	}
	if err != nil {
		return opt, false, err
	}
	if text := q.Get("sinceTime"); text != "" {
		if opt.Since, err = time.Parse(time.RFC3339, text); err != nil {
			return opt, false, fmt.Errorf("sinceTime: %q is not an RFC 3339 time", text)
		}
	}
	switch stream := q.Get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		opt.Stderr = false
	case corev1.LogStreamStderr:
		opt.Stdout = false
	default:
		return opt, false, fmt.Errorf("invalid stream type %q", stream)
	}
	return opt, isOn(q.Get("previous")), nil
}
