package hold

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config is what mote-hold runs with.
type Config struct {
	Socket string   // Run/hold.sock
	Adopt  int      // descriptor of a hand-over table (see Become), or -1
	Lock   int      // descriptor of the lock, handed over likewise, or -1
	Args   []string // the runtime's program and arguments
}

// restartDelay keeps a runtime that can't start from burning the processor; it doubles to maxRestartDelay.
const (
	restartDelay    = 50 * time.Millisecond
	maxRestartDelay = 5 * time.Second
	stableAfter     = 10 * time.Second
	lockPatience    = 2 * time.Second
)

// Run keeps the runtime running until SIGTERM or SIGINT, and answers its questions.
func Run(cfg Config) error {
	if len(cfg.Args) == 0 {
		return errors.New("no runtime to run: usage: mote-hold --socket PATH -- mote-runtime [args]")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	if cfg.Lock >= 0 {
		unix.CloseOnExec(cfg.Lock)
	} else {
		var err error
		// Processes that were just killed take a moment to be gone.
		for wait := time.Millisecond; ; wait *= 2 {
			if cfg.Lock, err = lock(cfg.Socket); !errors.Is(err, errHeld) || wait > lockPatience {
				break
			}
			time.Sleep(wait)
		}
		if err != nil {
			return err
		}
	}
	keep := newKeeper()
	if cfg.Adopt >= 0 {
		if err := adopt(keep, cfg.Adopt); err != nil {
			return fmt.Errorf("take over descriptors: %w", err)
		}
	}
	listener, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	go accept(listener, keep)

	stop := make(chan os.Signal, 2)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)

	ended := make(chan end, 16)
	var reaping bool
	delay := restartDelay
	for {
		started := time.Now()
		pid, err := spawn(cfg.Args, cfg.Lock)
		if err != nil {
			return fmt.Errorf("start %s: %w", cfg.Args[0], err)
		}
		if !reaping {
			// The reaper starts after the first child: waitid fails at once when there is none.
			go reap(keep, ended)
			reaping = true
		}
		status, stopped := await(pid, ended, stop)
		if stopped {
			_ = os.Remove(cfg.Socket)
			return nil
		}
		if time.Since(started) > stableAfter || status.Signaled() {
			delay = restartDelay // it was killed; that it fails by itself is what the growing delay is for
		}
		fmt.Fprintf(os.Stderr, "mote-hold: the runtime (pid %d) ended; starting it again in %v\n", pid, delay)
		select {
		case <-stop:
			return nil
		case <-time.After(delay):
		}
		delay = min(2*delay, maxRestartDelay)
	}
}

// await blocks until the runtime ends; true means that we were asked to stop and it did.
func await(pid int, ended <-chan end, stop <-chan os.Signal) (unix.WaitStatus, bool) {
	stopping := false
	for {
		select {
		case gone := <-ended:
			if gone.pid == pid {
				return gone.status, stopping
			}
		case s := <-stop:
			if stopping {
				return 0, true
			}
			stopping = true
			_ = unix.Kill(pid, s.(syscall.Signal))
		}
	}
}

// end is a child's end.
type end struct {
	pid    int
	status unix.WaitStatus
}

func spawn(args []string, lock int) (int, error) {
	return syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Env:   append(os.Environ(), lockVariable+"=3"),
		Files: []uintptr{0, 1, 2, uintptr(lock)},
		Sys:   &syscall.SysProcAttr{},
	})
}

// reap collects every dead child. A zombie's start time is read before it is reaped, so that its pid can't be taken
// for that of a later process.
func reap(keep *keeper, ended chan<- end) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // ECHILD: between two runtimes, with no orphan
			time.Sleep(restartDelay / 2)
			continue
		}
		pid := childPid(&info)
		start, _ := StartTime(pid)
		var status unix.WaitStatus
		if got, err := unix.Wait4(pid, &status, 0, nil); err != nil || got != pid {
			continue
		}
		keep.recordExit(process{pid, start}, status)
		select {
		case ended <- end{pid, status}:
		default:
		}
	}
}

func listen(path string) (int, error) {
	_ = os.Remove(path)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err != nil {
		return -1, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		return -1, fmt.Errorf("listen on %s: %w", path, err)
	}
	return fd, nil
}

func accept(listener int, keep *keeper) {
	for {
		conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			if err != unix.EINTR && err != unix.ECONNABORTED {
				fmt.Fprintln(os.Stderr, "mote-hold: accept:", err)
				time.Sleep(restartDelay)
			}
			continue
		}
		go serve(conn, keep)
	}
}

func serve(conn int, keep *keeper) {
	defer unix.Close(conn)
	for {
		request, fds, err := receive(conn)
		if err != nil {
			return
		}
		reply, held := keep.answer(request, fds)
		if err := send(conn, reply, held); err != nil {
			return
		}
	}
}

// adopt reads the hand-over table: a line of "key fd fd..." for each container, the descriptors being our own.
func adopt(keep *keeper, table int) error {
	file := os.NewFile(uintptr(table), "handover")
	defer file.Close()
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	raw := make([]byte, info.Size())
	if _, err := file.ReadAt(raw, 0); err != nil && len(raw) > 0 {
		return err
	}
	for line := range strings.Lines(string(raw)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		var fds []int
		for _, word := range words[1:] {
			fd, err := strconv.Atoi(word)
			if err != nil {
				return fmt.Errorf("hand-over line %q: %w", line, err)
			}
			unix.CloseOnExec(fd)
			fds = append(fds, fd)
		}
		keep.fds[words[0]] = fds
	}
	return nil
}
