package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		c, err := net.DialTimeout("tcp", "127.0.0.1:5090", time.Second)
		if err != nil {
			os.Exit(1)
		}
		c.Close()
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	go func() {
		for s := range c {
			if s == syscall.SIGHUP {
				continue
			}
			if os.Getenv("IGNORE") != "" {
				continue
			}
			time.Sleep(300 * time.Millisecond)
			os.Exit(0)
		}
	}()
	h, _ := os.Hostname()
	http.ListenAndServe(":5090", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, h) }))
}
