package server

import (
	"net/http"
	"strings"
	"time"

	"github.com/mote-edge/mote/agent/meter"
)

// counted counts the requests of a pattern and how long they take.
func (s *Server) counted(pattern string, h http.HandlerFunc) http.HandlerFunc {
	method, path, _ := strings.Cut(pattern, " ")
	path = strings.Trim(path, "/")
	if i := strings.Index(path, "/{"); i >= 0 {
		path = path[:i]
	}
	long := "false"
	switch path {
	case "exec", "attach", "portForward", "containerLogs":
		long = "true"
	}
	return func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		s.cfg.Tally.Add(meter.HTTPRequests, 1, method, path, long)
		s.cfg.Tally.Add(meter.HTTPInFlight, 1, method, path, long)
		defer func() {
			s.cfg.Tally.Add(meter.HTTPInFlight, -1, method, path, long)
			s.cfg.Tally.Since(meter.HTTPDurations, begin, method, path, long)
		}()
		h(w, r)
	}
}
