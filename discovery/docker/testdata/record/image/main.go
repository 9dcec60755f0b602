// Image is what the recording runs: a server that ends 300 ms after TERM or QUIT, and with the
// argument check its own health check.
package main

import (
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		if _, err := net.DialTimeout("tcp", "127.0.0.1:5090", time.Second); err != nil {
			os.Exit(1)
		}
		return
	}
	signal.Ignore(syscall.SIGHUP)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGQUIT)
	go http.ListenAndServe(":5090", nil)
	<-stop
	time.Sleep(300 * time.Millisecond)
}
