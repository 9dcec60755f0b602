// Package accesslog writes one line per request, in nginx's combined format or as JSON.
//
// Lines are formatted and written by one goroutine of their own, so a slow reader of stdout slows no
// request: when it cannot keep up, lines are dropped and counted.
package accesslog

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"longshore/proxy"
)

// backlog is how many requests may wait to be written.
const backlog = 8192

// flushEvery is how long a line may sit in the buffer.
const flushEvery = 200 * time.Millisecond

// A Log is told of requests by Record, and writes them while Run runs.
type Log struct {
	append  func([]byte, *proxy.Record) []byte
	out     io.Writer
	log     *slog.Logger
	records chan *proxy.Record // buffered: the data path never waits
	dropped atomic.Int64
}

// New returns a Log that writes to out in a format: "combined" or "json".
func New(out io.Writer, format string, log *slog.Logger) *Log {
	l := &Log{append: appendCombined, out: out, log: log, records: make(chan *proxy.Record, backlog)}
	if format == "json" {
		l.append = appendJSON
	}
	return l
}

// Record takes a request to be written. It keeps r and never waits.
func (l *Log) Record(r *proxy.Record) {
	select {
	case l.records <- r:
	default:
		l.dropped.Add(1)
	}
}

// Run writes until ctx is done, and then what is left.
func (l *Log) Run(ctx context.Context) error {
	w := bufio.NewWriterSize(l.out, 64<<10)
	defer w.Flush()
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	var line []byte
	write := func(r *proxy.Record) {
		line = append(l.append(line[:0], r), '\n')
		w.Write(line)
	}
	for {
		select {
		case r := <-l.records:
			write(r)
		case <-tick.C:
			w.Flush()
			if n := l.dropped.Swap(0); n > 0 {
				l.log.Warn("access log: the reader of stdout is too slow, lines dropped", "lines", n)
			}
		case <-ctx.Done():
			for {
				select {
				case r := <-l.records:
					write(r)
				default:
					return nil
				}
			}
		}
	}
}

// appendCombined is nginx's predefined format "combined":
// $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"
func appendCombined(b []byte, r *proxy.Record) []byte {
	b = append(b, r.ClientIP...)
	b = append(b, " - "...)
	b = appendOr(b, r.User)
	b = append(b, " ["...)
	b = r.Time.AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = appendEscaped(b, r.Method)
	b = append(b, ' ')
	b = appendEscaped(b, r.URI)
	b = append(b, ' ')
	b = append(b, r.Proto...)
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.Bytes, 10)
	b = append(b, ` "`...)
	b = appendOr(b, r.Referer)
	b = append(b, `" "`...)
	b = appendOr(b, r.UserAgent)
	return append(b, '"')
}

// appendOr writes "-" for what is empty, as nginx does.
func appendOr(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	return appendEscaped(b, s)
}

// appendEscaped escapes as nginx's default does: quotes, backslashes, control bytes and everything
// above 126 become \xXX, so that no client can forge a line.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' || c < 32 || c > 126 {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// appendJSON writes one object; times are in RFC 3339 and seconds, sizes in bytes.
func appendJSON(b []byte, r *proxy.Record) []byte {
	line, err := json.Marshal(struct {
		Time      string  `json:"time"`
		ClientIP  string  `json:"remote_addr"`
		User      string  `json:"remote_user,omitempty"`
		Method    string  `json:"method"`
		Host      string  `json:"host"`
		URI       string  `json:"uri"`
		Proto     string  `json:"proto"`
		Status    int     `json:"status"`
		Bytes     int64   `json:"bytes"`
		Duration  float64 `json:"duration"`
		Service   string  `json:"service,omitempty"`
		Upstream  string  `json:"upstream,omitempty"`
		Referer   string  `json:"referer,omitempty"`
		UserAgent string  `json:"user_agent,omitempty"`
	}{
		r.Time.Format(time.RFC3339Nano), r.ClientIP, r.User, r.Method, r.Host, r.URI, r.Proto,
		r.Status, r.Bytes, r.Duration.Seconds(), r.Service, r.Upstream, r.Referer, r.UserAgent,
	})
	if err != nil {
		return b // no value of these types fails
	}
	return append(b, line...)
}
