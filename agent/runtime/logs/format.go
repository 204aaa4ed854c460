// Package logs copies containers' streams into CRI log files and to attached clients.
//
// A line survives the SIGKILL of the runtime: bytes move from the container's pipe into a spool file on tmpfs inside
// the kernel (splice), so at every moment they are in the pipe, in the spool or in the log. The spool's header says
// which bytes were being appended to the log and where, so that a restart neither repeats nor loses them.
//
// Reads:  the containers' pipes and terminals.
// Writes: the CRI log file; Run/ctr/<id>/{stdout,stderr}.spool.
package logs

import (
	"bytes"
	"time"
)

// maxLine is the longest line written whole; a longer one is cut into entries tagged P.
const maxLine = 16 * 1024

// stampLayout has fixed width, unlike RFC3339Nano, so that the length of an entry follows from its content alone.
const stampLayout = "2006-01-02T15:04:05.000000000Z07:00"

// Stream names one of a container's output streams.
type Stream int

// The output streams. A terminal's output is Stdout.
const (
	Stdout Stream = iota
	Stderr
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// complete returns how many bytes of data can be logged now: everything to the last newline, or whole pieces of
// maxLine of a line that is too long. At the end of the stream that is all of it.
func complete(data []byte, end bool) int {
	if end {
		return len(data)
	}
	if at := bytes.LastIndexByte(data, '\n'); at >= 0 {
		data, rest := data[:at+1], data[at+1:]
		return len(data) + len(rest)/maxLine*maxLine
	}
	return len(data) / maxLine * maxLine
}

// appendEntries formats data as CRI log entries: "<time> <stream> <F|P> <content>\n". A last line that the container
// didn't end is a partial one, as containerd has it: readers don't add an end to it then.
func appendEntries(dst, data []byte, stream Stream, now time.Time) []byte {
	for len(data) > 0 {
		at := bytes.IndexByte(data, '\n')
		line, rest, tag := data, data[len(data):], byte('P')
		if at >= 0 {
			line, rest, tag = data[:at], data[at+1:], 'F'
		}
		if len(line) > maxLine {
			line, rest, tag = data[:maxLine], data[maxLine:], 'P'
		}
		dst = now.UTC().AppendFormat(dst, stampLayout)
		dst = append(dst, ' ')
		dst = append(dst, stream.String()...)
		dst = append(dst, ' ', tag, ' ')
		dst = append(dst, line...)
		dst = append(dst, '\n')
		data = rest
	}
	return dst
}
