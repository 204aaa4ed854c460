package userns

import (
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

const kubeletUser = "kubelet"

// Subordinate returns the numbers that getsubids has for the user "kubelet": one line, the same for users and groups.
// Without such a user, or without the tool, it is all numbers but the host's own first ones.
func Subordinate(length uint32) (Range, error) {
	rest := Range{First: length, Length: uint32(1<<32 - uint64(length))}
	if _, err := user.Lookup(kubeletUser); err != nil {
		if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
			return rest, nil
		}
		return Range{}, err
	}
	tool, err := exec.LookPath("getsubids")
	if errors.Is(err, exec.ErrNotFound) {
		return rest, nil
	} else if err != nil {
		return Range{}, err
	}
	users, err := exec.Command(tool, kubeletUser).Output()
	if err != nil {
		return Range{}, fmt.Errorf("error retrieving additional uids for user %q (the user exists: give it a range in /etc/subuid and /etc/subgid): %w", kubeletUser, err)
	}
	groups, err := exec.Command(tool, "-g", kubeletUser).Output()
	if err != nil {
		return Range{}, fmt.Errorf("error retrieving additional gids for user %q (the user exists: give it a range in /etc/subuid and /etc/subgid): %w", kubeletUser, err)
	}
	if string(users) != string(groups) {
		return Range{}, fmt.Errorf("mismatched subuids and subgids for user %q", kubeletUser)
	}
	return parse(string(users))
}

// parse reads getsubids' line: number, user, first, length.
func parse(text string) (Range, error) {
	fields := strings.Fields(text)
	if lines := strings.Count(strings.Trim(text, "\n"), "\n"); lines > 0 || len(fields) != 4 {
		return Range{}, fmt.Errorf("error parsing line %q: it must contain only one line of four fields", text)
	}
	first, err := strconv.ParseUint(fields[2], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("error parsing line %q: %w", text, err)
	}
	length, err := strconv.ParseUint(fields[3], 10, 32)
	if err != nil {
		return Range{}, fmt.Errorf("error parsing line %q: %w", text, err)
	}
	return Range{uint32(first), uint32(length)}, nil
}
