package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// untilSignal returns a context that SIGTERM, SIGQUIT (what Docker sends in place of nginx, whose
// image asks for it) and SIGINT end. A second signal ends the process at once.
func untilSignal(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2) // so that neither signal is lost before it is looked at
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		<-signals
		os.Exit(exitFailed)
	}()
	return ctx
}

// nginxSignals returns the signals that control an nginx: hooks of certbot, logrotate and cron send them. Without
// somebody who takes them most would end the process. forget ends the delivery.
func nginxSignals() (signals <-chan os.Signal, forget func()) {
	c := make(chan os.Signal, 8) // those of the start wait until heed runs
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	signal.Ignore(syscall.SIGPIPE) // the reader of a log has gone
	return c, func() { signal.Stop(c) }
}

// heed says what becomes of nginx's signals until ctx is done. A reload is to be called here.
func (p *program) heed(ctx context.Context) {
	for {
		select {
		case s := <-p.signals:
			switch s {
			case syscall.SIGHUP:
				p.log.Info("SIGHUP: nothing to reload, containers are followed as they change; variables are read at the start alone")
			case syscall.SIGUSR1:
				p.log.Info("SIGUSR1: nothing to reopen, the logs go to stdout and stderr")
			case syscall.SIGUSR2:
				p.log.Info("SIGUSR2: ignored, a new binary needs a new container or process")
			case syscall.SIGWINCH:
				p.log.Info("SIGWINCH: ignored, there are no workers to stop; SIGTERM and SIGQUIT stop gracefully")
			}
		case <-ctx.Done():
			return
		}
	}
}
