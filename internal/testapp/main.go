// Testapp is a backend for tests on the real engine. It misbehaves as the environment asks:
//
//	LISTEN_AFTER  how long after its start it listens: 2s
//	ON_TERM       exit (at once, the default) or ignore
//	PORT          5090
//
// It answers with its hostname, and "testapp check" is its HEALTHCHECK, which fails from a request to
// /sick on; /slow waits for the duration in the query: /slow?1s. SIGHUP is handled
// and changes nothing.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
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
	started := time.Now()
	signal.Ignore(syscall.SIGHUP)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		for range signals {
			if os.Getenv("ON_TERM") != "ignore" {
				os.Exit(0)
			}
		}
	}()
	if d, err := time.ParseDuration(os.Getenv("LISTEN_AFTER")); err == nil {
		time.Sleep(d)
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Up-For", time.Since(started).String())
		fmt.Fprintln(w, host)
	})
	http.HandleFunc("/sick", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(sick, nil, 0o600); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	http.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		d, _ := time.ParseDuration(r.URL.RawQuery)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
		}
		fmt.Fprintln(w, host)
	})
	port := os.Getenv("PORT")
	if port == "" {
		port = "5090"
	}
	log.Fatal(http.ListenAndServe(":"+port, nil))
}
