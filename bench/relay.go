package main

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A relay is a Docker socket that loses its connections now and then.
type relay struct {
	ln     net.Listener
	target string

	mu    sync.Mutex // guards conns
	conns map[net.Conn]bool
}

// relayTo listens at path. Everybody may connect, as the proxies in the containers are not us.
func relayTo(target, path string) (*relay, error) {
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		ln.Close()
		return nil, err
	}
	r := &relay{ln: ln, target: target, conns: make(map[net.Conn]bool)}
	go r.accept()
	return r, nil
}

// accept runs until close.
func (r *relay) accept() {
	for {
		client, err := r.ln.Accept()
		if err != nil {
			return
		}
		engine, err := net.Dial("unix", r.target)
		if err != nil {
			client.Close()
			continue
		}
		r.hold(client, engine)
		go r.copy(engine, client)
		go r.copy(client, engine)
	}
}

func (r *relay) hold(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = true
	}
}

// copy ends both connections with the first of them.
func (r *relay) copy(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, to)
	delete(r.conns, from)
}

// cut ends all connections that are open now.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.Close()
	}
}

// cutEvery cuts until stop is closed.
func (r *relay) cutEvery(d time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.cut()
		case <-stop:
			return
		}
	}
}

func (r *relay) close() {
	r.ln.Close()
	r.cut()
}
