// Command peer is the end-to-end tests' network program: `peer serve TEXT` answers requests on :8080 with TEXT, `peer get
// URL` prints an answer. (Debian's static busybox can't resolve names in an image without glibc's shared libraries.)
//
// Reads:  its arguments, requests. Writes: answers.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("peer serve TEXT | peer get URL")
	}
	switch os.Args[1] {
	case "serve":
		srv := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, os.Args[2])
		})}
		log.Fatal(srv.ListenAndServe())
	case "get":
		c := http.Client{Timeout: 3 * time.Second}
		resp, err := c.Get(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
			log.Fatal(err)
		}
	default:
		log.Fatal("peer serve TEXT | peer get URL")
	}
}
