package criconfig

import (
	"fmt"
	"strings"
)

// EnvFileValue finds a variable in an environment file: NAME='value' a line, the value in single quotes, literally, over
// several lines if it wants; comments begin with #. It returns an empty string where the file doesn't have it (KEP-3721).
func EnvFileValue(text, key string) (string, error) {
	line := 0
	for text != "" {
		var l string
		l, text, _ = strings.Cut(text, "\n")
		line++
		l = strings.TrimLeft(l, " \t")
		if l == "" || l[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(l, "=")
		switch {
		case !ok:
			return "", fmt.Errorf("line %d: missing '='", line)
		case name == "":
			return "", fmt.Errorf("line %d: empty variable name", line)
		case strings.TrimRight(name, " \t") != name:
			return "", fmt.Errorf("line %d: whitespace before '=' is not allowed", line)
		case value != "" && (value[0] == ' ' || value[0] == '\t'): // as a shell has it: an empty value, and then a command
			if name == key {
				return "", nil
			}
			continue
		case value == "" || value[0] != '\'':
			return "", fmt.Errorf("line %d: value must be enclosed in single quotes", line)
		}
		value, rest, closed := strings.Cut(value[1:], "'")
		for begin := line; !closed; {
			if text == "" {
				return "", fmt.Errorf("line %d: unclosed single quote", begin)
			}
			l, text, _ = strings.Cut(text, "\n")
			line++
			var more string
			more, rest, closed = strings.Cut(l, "'")
			value += "\n" + more
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
			return "", fmt.Errorf("line %d: unexpected content after closing quote", line)
		}
		if name == key {
			return value, nil
		}
	}
	return "", nil
}
