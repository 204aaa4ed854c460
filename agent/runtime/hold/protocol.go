// Package hold is the contract between mote-hold and mote-runtime: a small keeper process that outlives the runtime,
// holds the descriptors of containers' streams and remembers how orphaned processes ended.
//
// The protocol is one packet a request and one a reply on a SOCK_SEQPACKET unix socket, words separated by spaces,
// descriptors as SCM_RIGHTS. It uses the standard library and x/sys alone, to keep the keeper tiny.
//
//	put <key> +fds         -> ok              keep these descriptors, replacing what the key had
//	get <key>              -> ok +fds | none
//	del <key>              -> ok              close and forget; unknown keys are fine
//	keys <offset>          -> ok <key>...     a page of keys in order; empty at the end
//	exit <pid> <starttime> -> ok <wait status> | none
//	forget <pid> <start>   -> ok
//
// Reads:  /proc/<pid>/stat of zombies.
// Writes: the socket Run/hold.sock and the lock Run/hold.lock.
package hold

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxPacket bounds requests and replies; maxFDs bounds descriptors in one packet (SCM_MAX_FD is 253).
const (
	maxPacket = 8192
	maxFDs    = 16
)

// ErrGone reports that mote-hold closed the connection: it has died.
var ErrGone = errors.New("mote-hold is gone")

func send(fd int, text string, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(fd, []byte(text), oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

func receive(fd int) (string, []int, error) {
	buf := make([]byte, maxPacket)
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	for {
		n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if n == 0 {
			return "", nil, ErrGone
		}
		fds, err := parseRights(oob[:oobn])
		return string(buf[:n]), fds, err
	}
}

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// StartTime returns field 22 of /proc/<pid>/stat: clock ticks after boot at which the process started. With the pid
// it names a process for the life of the system.
func StartTime(pid int) (uint64, error) {
	raw, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// The command name, in parentheses, may hold anything; fields are counted from the last ')'.
	text := string(raw)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(fields))
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
