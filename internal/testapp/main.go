// Testapp is a backend for tests and measurements on the real engine. It misbehaves as the environment asks:
//
//	LISTEN_AFTER  how long after its start it listens: 2s
//	ON_TERM       exit (at once, the default), finish (listen no more, answer what is in flight, exit) or ignore
//	EXIT_AFTER    how long after its start it crashes: 300ms
//	EXECUTED      a directory: the X-Request-Id of each POST is appended to the file there that has the
//	              hostname as its name, before the POST is answered
//	POST_TAKES    how long a POST waits between the two: 50ms
//	CHILD         true: it is not the first process of its container, which the kernel lets nobody kill from within
//	PORT          5090
//
// It answers with its hostname, and "testapp check" is its HEALTHCHECK, which fails from a request to
// /sick on; /slow waits for the duration in the query: /slow?1s. /health answers 200, and 503 with
// X-Drain: 1 for the duration in the query of a request to /drain: /drain?5s. /crash ends it, /killed has
// it end as the kernel ends who takes too much memory. SIGHUP is handled and changes nothing.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

// sick is a file that is there when the HEALTHCHECK is to fail.
const sick = "/sick"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		if _, err := os.Stat(sick); err == nil {
			os.Exit(1)
		}
		return
	}
	if os.Getenv("CHILD") == "true" {
		os.Unsetenv("CHILD")
		child := exec.Command("/proc/self/exe")
		child.Run()
		os.Exit(128 + int(syscall.SIGKILL))
	}
	started := time.Now()
	signal.Ignore(syscall.SIGHUP)
	port := os.Getenv("PORT")
	if port == "" {
		port = "5090"
	}
	server := &http.Server{Addr: ":" + port}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		for range signals {
			switch os.Getenv("ON_TERM") {
			case "ignore":
			case "finish":
				server.Shutdown(context.Background())
				os.Exit(0)
			default:
				os.Exit(0)
			}
		}
	}()
	if d, err := time.ParseDuration(os.Getenv("EXIT_AFTER")); err == nil {
		time.AfterFunc(d, func() { os.Exit(1) })
	}
	if d, err := time.ParseDuration(os.Getenv("LISTEN_AFTER")); err == nil {
		time.Sleep(d)
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	postTakes, _ := time.ParseDuration(os.Getenv("POST_TAKES"))
	var executed *os.File
	if dir := os.Getenv("EXECUTED"); dir != "" {
		executed, err = os.OpenFile(filepath.Join(dir, host), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			log.Fatal(err)
		}
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if executed != nil && r.Method == http.MethodPost {
			if _, err := fmt.Fprintln(executed, r.Header.Get("X-Request-Id")); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			time.Sleep(postTakes)
		}
		w.Header().Set("X-Up-For", time.Since(started).String())
		fmt.Fprintln(w, host)
	})
	http.HandleFunc("/sick", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(sick, nil, 0o600); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	var drained atomic.Int64 // until when, in Unix nanoseconds
	http.HandleFunc("/drain", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.RawQuery)
		drained.Store(time.Now().Add(d).UnixNano())
		fmt.Fprintln(w, host)
	})
	http.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) {
		if time.Now().UnixNano() < drained.Load() {
			w.Header().Set("X-Drain", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintln(w, "ok")
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.RawQuery)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, host)
	})
	http.HandleFunc("/crash", func(http.ResponseWriter, *http.Request) { os.Exit(1) })
	http.HandleFunc("/killed", func(http.ResponseWriter, *http.Request) { syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	select {} // the rest is up to the handler of the signal
}
