package main

import (
	"context"
	"errors"
	"flag"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
)

// reverseProxy is the baseline: the standard library's proxy as one would write it in ten lines, with
// a tuned Transport and the same forwarded headers.
func reverseProxy(ctx context.Context, fs *flag.FlagSet, args []string) error {
	listen := fs.String("listen", "127.0.0.1:19012", "address")
	fs.Parse(args)
	var next atomic.Uint64
	targets := []*url.URL{{Scheme: "http", Host: origins[0]}, {Scheme: "http", Host: origins[1]}}
	server := &http.Server{Addr: *listen, Handler: &httputil.ReverseProxy{
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Transport:    &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(targets[next.Add(1)%2])
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
	}}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
