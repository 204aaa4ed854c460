// Package logs reads and rotates container logs in the CRI format: one line is "<time> <stream> <tags> <text>", where the
// tag P says that the text goes on in the next line of the stream.
//
// Reads:  the log files that the runtime writes.
// Writes: rotated log files: renames, gzip copies, removals.
package logs

import (
	"bytes"
	"errors"
	"time"
)

// record is one line of a log.
type record struct {
	at      time.Time
	stream  string // stdout or stderr
	partial bool
	text    []byte // without the line's end
}

var errFormat = errors.New("not a CRI log line")

// parse reads a line, with or without its end. The text shares the line's memory.
func parse(line []byte) (record, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	stamp, rest, ok1 := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tags, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return record{}, errFormat
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil || string(stream) != "stdout" && string(stream) != "stderr" {
		return record{}, errFormat
	}
	tag, _, _ := bytes.Cut(tags, []byte(":"))
	return record{at: at, stream: string(stream), partial: string(tag) == "P", text: text}, nil
}
