package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Pressure is how long tasks waited for a resource (PSI, Documentation/accounting/psi.rst): some of them, or all at once.
type Pressure struct{ Some, Full Stall }

// Stall is one line of a pressure file.
type Stall struct {
	Avg10, Avg60, Avg300 float64 // percent of the time
	Total                time.Duration
}

// pressure reads what waits for cpu, memory or io in a cgroup; nil where the kernel doesn't tell. cgroup v1 tells it of the
// machine alone.
func (t *Tree) pressure(cg, resource string) *Pressure {
	file := filepath.Join("/proc/pressure", resource)
	if cg != "/" {
		if !t.hier.v2 {
			return nil
		}
		file = filepath.Join(t.hier.unified, cg, resource+".pressure")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return parsePressure(string(b))
}

func parsePressure(text string) *Pressure {
	var p Pressure
	for line := range strings.Lines(text) {
		var kind string
		var s Stall
		var micros int64
		if _, err := fmt.Sscanf(line, "%s avg10=%f avg60=%f avg300=%f total=%d", &kind, &s.Avg10, &s.Avg60, &s.Avg300, &micros); err != nil {
			continue
		}
		s.Total = time.Duration(micros) * time.Microsecond
		switch kind {
		case "some":
			p.Some = s
		case "full":
			p.Full = s
		}
	}
	return &p
}
