package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

// start measures the time from the start of the process to its first answer, and resident memory with
// ten backends and no traffic.
func start(ctx context.Context, fs *flag.FlagSet, args []string) error {
	runs := fs.Int("runs", 10, "runs; the median is reported")
	rest := fs.Duration("rest", 5*time.Second, "how long the last run rests until its memory is read")
	fs.Parse(args)
	dir, longshore, err := workshop(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var backends []string
	for range 10 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }))
		backends = append(backends, ln.Addr().String())
	}
	var took []float64
	for run := range *runs {
		cmd := exec.CommandContext(ctx, longshore)
		cmd.Env = environ("LONGSHORE_LISTEN=127.0.0.1:19030", "LONGSHORE_ADMIN=127.0.0.1:19031", "LONGSHORE_BACKENDS="+strings.Join(backends, ", "))
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		if err := waitReady(ctx, "http://127.0.0.1:19030/"); err != nil {
			return err
		}
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		if run == *runs-1 {
			time.Sleep(*rest)
			fmt.Printf("resident memory with 10 backends: %s MB\n", resident(cmd.Process.Pid))
		}
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	fmt.Printf("start to first request served: median %.0f ms of %d runs\n", median(took), *runs)
	return nil
}
