// Package conformance holds the test that says how what nginx, NGINX Plus and nginx-proxy can do is written
// in Longshore. It has no code.
package conformance
