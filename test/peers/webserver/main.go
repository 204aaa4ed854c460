// Command webserver stands in for the nginx that critest's images carry: it writes the pid file, bears the process title
// that the suite greps for, and answers on one port (argument 1; 80 without).
//
// Reads:  nothing.
// Writes: /var/run/nginx.pid.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"syscall"
)

const title = "nginx: master process"

func main() {
	port := "80"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	if os.Args[0] != title {
		log.Fatal(syscall.Exec("/proc/self/exe", []string{title, port}, os.Environ()))
	}
	if err := os.MkdirAll("/var/run", 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("/var/run/nginx.pid", fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "Welcome to nginx!")
	})))
}
