package runtime

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// A client of an exec makes its streams one by one after the upgrade, and waits for an answer to each. The command's first
// steps take longer than that and need none of them: they begin with the request for the upgrade (ADR 0311).

// askedLasts is how long an exec may begin so. The streaming server lets a URL be used for a minute; one that it will find too
// old must not begin anything.
const askedLasts = 50 * time.Second

// remember keeps what a URL was given out for.
func (s *Service) remember(address string, req *cri.ExecRequest) {
	token := path.Base(address)
	s.asked.Store(token, req)
	time.AfterFunc(askedLasts, func() { s.asked.Delete(token) }) // once for each exec: what nobody comes for is forgotten
}

// ahead is a command that began before its client's streams were there.
type ahead struct {
	begun   chan struct{} // closed when the fields below are set
	taken   bool          // by execStream, which ends it
	streams *stdio
	e       *execution
	err     error
}

type aheadKey struct{}

// beginAhead begins the command of an exec whose request for SPDY the streaming server will accept, and ends it if no streams came.
func (s *Service) beginAhead(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var asked any // nothing if the URL was used, is too old or made up, as the streaming server will say
		if token, is := strings.CutPrefix(r.URL.Path, "/exec/"); is && willStream(r) {
			asked, _ = s.asked.LoadAndDelete(token)
		}
		req, ok := asked.(*cri.ExecRequest)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		a := &ahead{begun: make(chan struct{})}
		go func() {
			defer close(a.begun)
			a.streams, a.e, a.err = s.beginExec(req.GetContainerId(), req.GetCmd(), req.GetTty(), req.GetStdin())
		}()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), aheadKey{}, a)))
		if <-a.begun; a.taken || a.err != nil {
			return
		}
		s.kill(a.e)
		<-a.e.done
		if _, err := s.reap(a.e); err != nil {
			s.log.Warn("end a command whose client didn't come", "container", req.GetContainerId(), "err", err)
		}
		a.streams.closeOurs()
	})
}

// willStream reports whether the streaming server will upgrade the connection.
func willStream(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodPost) && httpstream.IsUpgradeRequest(r) &&
		strings.EqualFold(r.Header.Get(httpstream.HeaderUpgrade), spdy.HeaderSpdy31) &&
		slices.ContainsFunc(r.Header.Values(httpstream.HeaderProtocolVersion), func(v string) bool {
			return slices.Contains(remotecommand.SupportedStreamingProtocols, v)
		})
}

// begunExec returns the command that beginAhead began, or begins it.
func (s *Service) begunExec(ctx context.Context, id string, cmd []string, tty, stdin bool) (*stdio, *execution, error) {
	a, _ := ctx.Value(aheadKey{}).(*ahead)
	if a == nil {
		return s.beginExec(id, cmd, tty, stdin)
	}
	<-a.begun
	a.taken = true
	return a.streams, a.e, a.err
}

// beginExec starts a command with pipes or a terminal. Without an error the caller ends it with reap, and closes what of our
// ends of the streams it doesn't take.
func (s *Service) beginExec(id string, cmd []string, tty, stdin bool) (*stdio, *execution, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	streams, err := newStdio(tty, stdin)
	if err != nil {
		return nil, nil, err
	}
	defer streams.closeChild()
	e, err := s.execute(c, cmd, streams)
	if err != nil {
		streams.closeOurs()
		return nil, nil, err
	}
	return streams, e, nil
}
