// Command hello is the example that `make run` deploys: it answers every request with the pod that it came to.
//
// Reads:  the environment, requests on :8080.
// Writes: answers, and a line a request on standard output.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	srv := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown"
		}
		fmt.Fprintf(w, "Hello from pod %s on node %s\n", host, os.Getenv("NODE_NAME"))
		fmt.Println(r.Method, r.URL.Path, r.RemoteAddr)
	})}
	log.Fatal(srv.ListenAndServe())
}
