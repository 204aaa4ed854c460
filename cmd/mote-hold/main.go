// mote-hold starts mote-runtime, starts it again when it dies, and meanwhile keeps what containers must not lose:
// the ends of their streams and the exit codes of those that end. With --init it is instead the first process of a
// pod that shares a PID namespace: it reaps and sleeps.
//
// Reads:  nothing.
// Writes: Run/hold.sock, Run/hold.lock.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/mote-edge/mote/agent/runtime/hold"
)

func main() {
	cfg := hold.Config{}
	var podInit bool
	flag.StringVar(&cfg.Socket, "socket", "/run/mote/hold.sock", "unix socket that the runtime asks")
	flag.IntVar(&cfg.Adopt, "adopt-fd", -1, "descriptor of a hand-over table, when the runtime becomes the holder")
	flag.IntVar(&cfg.Lock, "lock-fd", -1, "descriptor of the holder's lock, likewise")
	flag.BoolVar(&podInit, "init", false, "be the init of a shared PID namespace")
	flag.Parse()
	cfg.Args = flag.Args()
	if podInit {
		hold.Init()
		return
	}
	if err := hold.Run(cfg); err != nil {
		fmt.Fprintln(os.Stderr, "mote-hold:", err)
		os.Exit(1)
	}
}
