package hold

import (
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Init is the first process of a shared PID namespace: it reaps whatever is left to it until SIGTERM.
func Init() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	child := make(chan os.Signal, 1)
	signal.Notify(child, unix.SIGCHLD)
	for {
		for {
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			if err == unix.EINTR {
				continue
			}
			if pid <= 0 || err != nil {
				break
			}
		}
		select {
		case <-stop:
			return
		case <-child:
		case <-time.After(time.Hour):
		}
	}
}
