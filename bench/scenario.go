package main

import (
	"fmt"
	"time"
)

// A scenario says what happens to the replicas of a service while it is under load.
type scenario struct {
	Name, What string

	Replicas int               // at the start
	App      map[string]string // environment of the app
	Method   string            // of the requests; empty: GET
	Slow     bool              // beside them some GETs each second that the app takes 500 ms for
	Steps    []step            // one after another
	Subnet   bool              // the network has fixed addresses
	Cut      bool              // the Docker socket the proxy has is cut every 2 s
	Limit    time.Duration     // of p99.9 while the app is there; 0: 200 ms
	Flaky    bool              // one replica crashes all the time: it need not be used
}

// A step happens a while after the one before it. In quick runs the whiles are shorter.
type step struct {
	After float64 // seconds
	Do    string  // a name in verbs
	N     int     // replicas to have, or the number of the container
}

func (s step) String() string {
	if s.N == 0 {
		return s.Do
	}
	return fmt.Sprintf("%s %d", s.Do, s.N)
}

// tail is how long the load goes on after the last step.
const tail = 4 * time.Second

// slowly is how long the app takes for a slow request.
const slowly = 500 * time.Millisecond

// quickly is how much of each while is left in quick runs.
const quickly = 0.4

// Container 1 is the one that all proxies use: those that resolve a name once were started when there
// was no other.
var scenarios = []scenario{
	{Name: "scale-up", What: "scale from 2 to 4 replicas", Replicas: 2,
		Steps: []step{{3, "scale", 4}}},
	{Name: "scale-down", What: "scale from 4 to 2 replicas; the app exits at once on SIGTERM", Replicas: 4,
		Steps: []step{{3, "scale", 2}}},
	{Name: "scale-1-8-1", What: "scale from 1 to 8 replicas and back", Replicas: 1,
		Steps: []step{{3, "scale", 8}, {4, "scale", 1}}},
	{Name: "kill", What: "docker kill (SIGKILL) of one of two", Replicas: 2,
		Steps: []step{{3, "kill", 1}}},
	{Name: "restart", What: "docker restart of one of two", Replicas: 2,
		Steps: []step{{3, "restart", 1}}},
	{Name: "stop-exit", What: "docker stop of one of two with slow requests in flight; the app exits at once", Replicas: 2, Slow: true,
		Steps: []step{{3, "stop", 1}}},
	{Name: "stop-finish", What: "docker stop of one of two with slow requests in flight; the app listens no more and finishes them", Replicas: 2, Slow: true,
		App:   map[string]string{"ON_TERM": "finish"},
		Steps: []step{{3, "stop", 1}}},
	{Name: "recreate-all", What: "compose up --force-recreate of both replicas; the app listens 2 s after its start", Replicas: 2,
		App:   map[string]string{"LISTEN_AFTER": "2s"},
		Steps: []step{{3, "recreate", 2}}},
	{Name: "recreate-one", What: "compose up --force-recreate of the only replica", Replicas: 1,
		Steps: []step{{3, "recreate", 1}}},
	{Name: "pause", What: "docker pause of one of two, unpaused 5 s later", Replicas: 2, Limit: time.Second,
		Steps: []step{{3, "pause", 1}, {5, "unpause", 1}}},
	{Name: "flap", What: "beside two healthy replicas a third crashes 300 ms after each start, and is restarted", Replicas: 2, Flaky: true,
		Steps: []step{{3, "crash-loop", 0}, {5, "nothing", 0}}},
	{Name: "post", What: "POSTs, which take 50 ms, while 4 replicas are scaled down to 2; the app exits at once on SIGTERM", Replicas: 4, Method: "POST",
		App:   map[string]string{"POST_TAKES": "50ms"},
		Steps: []step{{3, "scale", 2}}},
	{Name: "ip-reuse", What: "one of two is stopped, a container of another service takes its address and listens on the same port; the first is started again", Replicas: 2, Subnet: true,
		Steps: []step{{3, "stop", 1}, {0, "squat", 1}, {2, "start", 1}}},
	{Name: "stream-cut", What: "2 to 4 to 2 replicas while the connection to the Docker engine is cut every 2 s", Replicas: 2, Cut: true,
		Steps: []step{{3, "scale", 4}, {4, "scale", 2}}},
}

// shorter is the scenario as quick runs have it.
func (sc scenario) shorter() scenario {
	steps := make([]step, len(sc.Steps))
	for i, st := range sc.Steps {
		st.After *= quickly
		steps[i] = st
	}
	sc.Steps = steps
	return sc
}

// listenAfter is how long the app is not there after a start.
func (sc scenario) listenAfter() time.Duration {
	d, _ := time.ParseDuration(sc.App["LISTEN_AFTER"])
	return d
}

// streams is the load of the scenario.
func (sc scenario) streams(rate int) []stream {
	method := sc.Method
	if method == "" {
		method = "GET"
	}
	all := []stream{{Rate: rate, Method: method, Path: "/?%d"}}
	if sc.Slow {
		all = append(all, stream{Rate: 20, Method: "GET", Path: "/slow?" + slowly.String(), Asked: slowly})
	}
	return all
}
