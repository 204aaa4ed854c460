package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"
)

// Queries of the node's logs (KEP-2258): /logs/?query=NAME answers with the journal of a service, or else with a file of
// the log directory that is called after it.

// The bounds of a query, as upstream has them.
const (
	maxLogServices = 4
	maxServiceName = 256
	maxLogTail     = 100_000
	logQueryFor    = 30 * time.Second
)

var notInServiceNames = regexp.MustCompile(`[^a-zA-Z\-_0-9@.:]+`)

// logQuery is a query, checked.
type logQuery struct {
	services []string
	file     string
	options  []string // journalctl's
}

// parseLogQuery reads the query of a request; false if it asks for nothing: then files are listed. It is pure.
func parseLogQuery(q url.Values) (logQuery, bool, error) {
	var out logQuery
	var files []string
	for _, v := range q["query"] {
		switch {
		case strings.ContainsAny(v, `/\`): // the sign of a file
			files = append(files, v)
		case strings.TrimSpace(v) == "":
		case len(v) > maxServiceName:
			return out, true, fmt.Errorf("query: %q: length must be less than %d", v, maxServiceName)
		case notInServiceNames.MatchString(v):
			return out, true, fmt.Errorf("query: %q: input contains unsupported characters", v)
		default:
			out.services = append(out.services, v)
		}
	}
	var errs []error
	since := logTime(q, "sinceTime", "--since=", &out, &errs)
	until := logTime(q, "untilTime", "--until=", &out, &errs)
	if !since.IsZero() && !until.IsZero() && since.After(until) {
		errs = append(errs, errors.New("untilTime: must be after `sinceTime`"))
	}
	if n, ok := logNumber(q, "tailLines", &errs); ok {
		if n < 0 || n > maxLogTail {
			errs = append(errs, fmt.Errorf("tailLines: must be in the range 0 to %d", maxLogTail))
		}
		out.options = append(out.options, "--pager-end", "--lines="+strconv.Itoa(n))
	}
	if n, ok := logNumber(q, "boot", &errs); ok {
		if n > 0 {
			errs = append(errs, errors.New("boot: must be less than 1"))
		}
		out.options = append(out.options, "--boot", strconv.Itoa(n))
	}
	if p := q.Get("pattern"); p != "" {
		if _, err := syntax.Parse(p, syntax.Perl); err != nil {
			errs = append(errs, fmt.Errorf("pattern: %w", err))
		}
		out.options = append(out.options, "--grep="+p)
	}
	switch {
	case len(files)+len(out.services) == 0 && !q.Has("query") && len(out.options) == 0 && len(errs) == 0:
		return out, false, nil
	case len(files)+len(out.services) == 0:
		errs = append(errs, errors.New("query: may not be empty"))
	case len(files) > 0 && len(out.services) > 0:
		errs = append(errs, errors.New("query: cannot specify a file and service"))
	case len(files) > 1:
		errs = append(errs, errors.New("query: cannot specify more than one file"))
	case len(files) == 1 && len(out.options) > 0:
		errs = append(errs, errors.New("query: cannot specify file with options"))
	case len(out.services) > maxLogServices:
		errs = append(errs, fmt.Errorf("query: must have at most %d services", maxLogServices))
	case len(files) == 1:
		out.file = files[0]
	}
	return out, true, errors.Join(errs...)
}

func logTime(q url.Values, name, option string, out *logQuery, errs *[]error) time.Time {
	text := q.Get(name)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		*errs = append(*errs, fmt.Errorf("%s: %q: invalid time format", name, text))
		return time.Time{}
	}
	out.options = append(out.options, option+t.UTC().Format("2006-1-2 15:04:05"))
	return t
}

func logNumber(q url.Values, name string, errs *[]error) (int, bool) {
	text := q.Get(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		*errs = append(*errs, fmt.Errorf("%s: %w", name, err))
	}
	return n, err == nil
}

// systemLogs serves the files of the log directory, and queries where they are allowed.
func (s *Server) systemLogs() http.Handler {
	files := http.StripPrefix("/logs/", http.FileServer(http.Dir(s.cfg.NodeLogs)))
	if !s.cfg.LogQueries {
		return files
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, asked, err := parseLogQuery(r.URL.Query())
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
		case !asked:
			files.ServeHTTP(w, r)
		default:
			ctx, cancel := context.WithTimeout(r.Context(), logQueryFor)
			defer cancel()
			w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
			s.answer(ctx, w, q)
		}
	})
}

func (s *Server) answer(ctx context.Context, w http.ResponseWriter, q logQuery) {
	if q.file != "" {
		if err := s.copyLog(w, q.file); err != nil {
			http.Error(w, "query: "+err.Error(), http.StatusBadRequest)
		}
		return
	}
	units := s.units(ctx)
	var native, others []string
	for _, name := range q.services {
		if units[name+".service"] {
			native = append(native, "--unit="+name)
		} else {
			others = append(others, name)
		}
	}
	if len(native) > 0 {
		args := append([]string{"--utc", "--no-pager", "--output=short-precise"}, append(q.options, native...)...)
		cmd := exec.CommandContext(ctx, "journalctl", args...)
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Run(); err != nil && ctx.Err() == nil {
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) { // what it has to say is in the answer already
				_, _ = fmt.Fprintf(w, "\nerror: journal output not available\n")
			}
		}
	}
	if len(others) > 0 && len(q.options) > 0 {
		_, _ = fmt.Fprintf(w, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", others)
		return
	}
	for _, name := range others {
		err := os.ErrNotExist
		for _, file := range []string{name, name + ".log", path.Join(name, name+".log")} {
			if err = s.copyLog(w, file); !errors.Is(err, os.ErrNotExist) {
				break
			}
		}
		switch {
		case errors.Is(err, os.ErrNotExist):
			_, _ = fmt.Fprintf(w, "\nlog not found for %s\n", name)
		case err != nil:
			_, _ = fmt.Fprintf(w, "\nerror getting log for %s: %v\n", name, err)
		}
	}
}

// units are those that the journal has something of; none without a journal.
func (s *Server) units(ctx context.Context) map[string]bool {
	out := map[string]bool{}
	text, err := exec.CommandContext(ctx, "journalctl", "--field", "_SYSTEMD_UNIT").Output()
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(text)) {
		out[strings.TrimSpace(line)] = true
	}
	return out
}

// copyLog writes a file of the log directory; links out of it lead nowhere. A directory is no file.
func (s *Server) copyLog(w io.Writer, name string) error {
	f, err := os.OpenInRoot(s.cfg.NodeLogs, strings.TrimPrefix(path.Clean("/"+name), "/"))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return os.ErrNotExist
	}
	_, err = io.Copy(w, f)
	return err
}
