// Package metrics shows the program's counters to Prometheus.
//
// The data path counts with atomics of its own. The collector reads them when it is scraped, so that
// a request pays for nothing but the additions.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"longshore/discovery"
	"longshore/internal/version"
	"longshore/proxy"
)

var (
	requests        = desc("requests_total", "Requests by status code.", "service", "code")
	duration        = desc("request_duration_seconds", "From the end of the request's header to the end of the response.", "service")
	backendRequests = desc("backend_requests_total", "Attempts sent to a backend.", "service", "backend")
	backendFailures = desc("backend_failures_total", "Attempts that failed, by reason.", "service", "backend", "reason")
	backendInFlight = desc("backend_inflight", "Requests a backend is serving now.", "service", "backend")
	backendUp       = desc("backend_up", "1 if a backend is ready for requests.", "service", "backend")
	retries         = desc("retries_total", "Attempts that were repeated on another backend, by the reason of the failure.", "service", "reason")
	fatal           = desc("fatal_requests_total", "Requests under which two containers ended by themselves, one after the other: 502.", "service")
	parked          = desc("parked", "Requests that wait for a ready backend.", "service")
	parkedTotal     = desc("parked_total", "Requests that had to wait for a ready backend.", "service")
	clients         = desc("client_connections", "Connections of clients.")
	clientsClosed   = desc("client_connections_closed_total", "Connections of clients that were closed to make room, by the reason: idle, the longest idle of all when LONGSHORE_MAX_CLIENTS was reached; address, for LONGSHORE_MAX_CLIENTS_PER_ADDRESS.", "reason")
	buffered        = desc("buffer_bytes", "Memory in use for what is buffered of requests and responses, see LONGSHORE_BUFFER_MEMORY.")
	bufferRefused   = desc("buffer_refused_total", "How often there was not enough of that, so that something was not buffered.")
	connected       = desc("docker_connected", "1 while the event stream of the Docker engine is open and the engine answers.")
	trouble         = desc("docker_trouble", "1 for why docker_connected is 0: away, denied, forbidden, missing, silent, stale.", "kind")
	linesDropped    = desc("log_lines_dropped_total", "Lines of the access log (stdout) or the log (stderr) that were dropped because the reader was too slow.", "stream")
	buildInfo       = desc("build_info", "Always 1.", "version", "goversion")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("longshore_"+name, help, labels, nil)
}

// Metrics is what one process shows.
type Metrics struct {
	registry *prometheus.Registry
	router   *proxy.Router
	link     func() discovery.Link // nil: no Docker
	applied  *prometheus.HistogramVec

	Server  *proxy.Server            // nil: none; set before the first scrape
	Dropped map[string]func() uint64 // log lines that nobody has read, by stream; complete before the first scrape
}

// New returns the metrics of a router and of a link to the Docker engine; nil: there is none.
func New(r *proxy.Router, link func() discovery.Link) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(), router: r, link: link, Dropped: make(map[string]func() uint64),
		applied: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "longshore_event_to_applied_seconds",
			Help:    "From the Docker engine's own time of an event to the routing table that follows it.",
			Buckets: []float64{.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"change"}),
	}
	m.registry.MustRegister(m, m.applied, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Applied records how long it took from an event to the routing table that follows it.
func (m *Metrics) Applied(add bool, took time.Duration) {
	change := "remove"
	if add {
		change = "add"
	}
	m.applied.WithLabelValues(change).Observe(max(took, 0).Seconds()) // an inspect may tell of a start before its event
}

// Describe sends what Collect can send.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requests, duration, backendRequests, backendFailures, backendInFlight,
		backendUp, retries, fatal, parked, parkedTotal, clients, clientsClosed, buffered, bufferRefused, connected, trouble, linesDropped, buildInfo} {
		ch <- d
	}
}

// Collect reads the counters.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for code, n := range m.router.Unrouted().Codes {
		counter(requests, n, "", strconv.Itoa(code))
	}
	for _, s := range m.router.Table().Services() {
		v := s.View()
		for code, n := range v.Stats.Codes {
			counter(requests, n, v.Name, strconv.Itoa(code))
		}
		ch <- prometheus.MustNewConstHistogram(duration, v.Stats.Count, v.Stats.Seconds, v.Stats.Buckets, v.Name)
		for _, reason := range proxy.Reasons() {
			counter(retries, v.Stats.Retries[reason], v.Name, reason.String())
		}
		counter(fatal, v.Stats.Felled, v.Name)
		gauge(parked, float64(v.Parked), v.Name)
		counter(parkedTotal, v.Stats.Parked, v.Name)
		for name, b := range byName(v.Backends) {
			counter(backendRequests, b.Requests, v.Name, name)
			gauge(backendInFlight, float64(b.InFlight), v.Name, name)
			gauge(backendUp, truth(b.State == "up"), v.Name, name)
			for _, reason := range proxy.Reasons() {
				counter(backendFailures, b.Failures[reason], v.Name, name, reason.String())
			}
		}
	}
	if m.Server != nil {
		v := m.Server.View()
		gauge(clients, float64(v.Clients))
		gauge(buffered, float64(v.Buffered))
		counter(bufferRefused, v.Unbuffered)
		for _, cause := range proxy.CloseCauses() {
			counter(clientsClosed, v.Closed[cause], cause.String())
		}
	}
	var link discovery.Link
	if m.link != nil {
		link = m.link()
	}
	gauge(connected, truth(link.Connected))
	for _, kind := range discovery.Troubles {
		gauge(trouble, truth(link.Trouble == kind), string(kind))
	}
	for stream, dropped := range m.Dropped {
		counter(linesDropped, dropped(), stream)
	}
	v, goVersion := version.Read()
	gauge(buildInfo, 1, v, goVersion)
}

// byName makes one series of backends of one name: while a container is recreated, the old and the new
// have it. They have their counters in common.
func byName(bs []proxy.BackendView) map[string]proxy.BackendView {
	sums := make(map[string]proxy.BackendView)
	for _, b := range bs {
		sum, ok := sums[b.Name]
		if !ok {
			sums[b.Name] = b
			continue
		}
		sum.InFlight += b.InFlight
		if b.State == "up" {
			sum.State = "up"
		}
		sums[b.Name] = sum
	}
	return sums
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
