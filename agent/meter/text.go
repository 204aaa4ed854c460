// Package meter counts and times what a node does, and writes it in the Prometheus text format under the names that
// kubelets use. Nothing is collected in the background: counters are added to where things happen, everything else is read
// when somebody asks. The client library would bring its registry, collectors and protobuf into every node.
//
// Reads:  nothing.
// Writes: nothing.
package meter

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Text writes the Prometheus text format.
type Text struct {
	buf  bytes.Buffer
	last string
}

// Value writes one sample. Samples of one name must follow each other; labels are name, value, name, value, ….
func (t *Text) Value(name, kind, help string, v float64, labels ...string) {
	t.head(name, kind, help)
	t.sample(name, v, labels)
}

// Histogram writes one histogram.
func (t *Text) Histogram(name, help string, h *Histogram, labels ...string) {
	t.head(name, "histogram", help)
	counts, sum := h.read()
	labels = append(labels[:len(labels):len(labels)], "le", "")
	total := uint64(0)
	for i, n := range counts {
		total += n
		labels[len(labels)-1] = "+Inf"
		if i < len(h.bounds) {
			labels[len(labels)-1] = strconv.FormatFloat(h.bounds[i], 'g', -1, 64)
		}
		t.sample(name+"_bucket", float64(total), labels)
	}
	labels = labels[:len(labels)-2]
	t.sample(name+"_sum", sum, labels)
	t.sample(name+"_count", float64(total), labels)
}

func (t *Text) head(name, kind, help string) {
	if name != t.last {
		fmt.Fprintf(&t.buf, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
		t.last = name
	}
}

func (t *Text) sample(name string, v float64, labels []string) {
	t.buf.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		t.buf.WriteByte("{,"[min(i, 1)])
		t.buf.WriteString(labels[i])
		t.buf.WriteString(`="`)
		t.buf.WriteString(escape.Replace(labels[i+1]))
		t.buf.WriteByte('"')
	}
	if len(labels) > 1 {
		t.buf.WriteByte('}')
	}
	t.buf.WriteByte(' ')
	t.buf.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	t.buf.WriteByte('\n')
}

var escape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// Bytes is what was written so far.
func (t *Text) Bytes() []byte { return t.buf.Bytes() }
