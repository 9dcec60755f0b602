package main

// A contender is a proxy in front of the service, as somebody who knows it would set it up.
type contender struct {
	Name, What string

	Program string            // its image
	Command []string          // entrypoint and arguments; empty: the image's
	Conf    string            // mounted as /etc/proxy.conf
	Env     map[string]string // environment
	Socket  bool              // the Docker socket is mounted
	Admin   bool              // port 9180 answers with state and metrics
	Blind   bool              // it finds no replica but the first
}

func nginxFor(http string) string {
	return `user root; worker_processes auto; daemon off; pid /tmp/nginx.pid; error_log stderr warn;
events { worker_connections 8192; }
http {
  access_log off;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
` + http + "}\n"
}

var nginxCommand = []string{"nginx", "-c", "/etc/proxy.conf"}

var contenders = []contender{
	{Name: "longshore", What: "Longshore with LONGSHORE_UPSTREAM=web:5090",
		Program: "longshore", Socket: true, Admin: true,
		Env: map[string]string{"LONGSHORE_UPSTREAM": "web:5090", "LONGSHORE_LOG_LEVEL": "debug", "LONGSHORE_LOG_FORMAT": "json",
			"LONGSHORE_ACCESS_LOG": "json"}},
	{Name: "nginx-story", What: "nginx, proxy_pass http://web:5090: the name is resolved once",
		Program: "nginx", Command: nginxCommand, Blind: true, Conf: nginxFor(`
  server { listen 80; location / { proxy_pass http://web:5090; } }
`)},
	{Name: "nginx-resolver", What: "nginx with resolver 127.0.0.11 valid=1s and a variable in proxy_pass",
		Program: "nginx", Command: nginxCommand, Conf: nginxFor(`
  resolver 127.0.0.11 valid=1s; proxy_connect_timeout 1s;
  server { listen 80; location / { set $web web:5090; proxy_pass http://$web; } }
`)},
	{Name: "nginx-resolve", What: "nginx with server … resolve in its upstream block (from 1.27.3 on)",
		Program: "nginx", Command: nginxCommand, Conf: nginxFor(`
  resolver 127.0.0.11 valid=1s; proxy_connect_timeout 1s;
  upstream web { zone web 64k; server web:5090 resolve; }
  server { listen 80; location / { proxy_pass http://web; } }
`)},
	{Name: "nginx-reload", What: "nginx whose upstream block a script rewrites at each Docker event, and reloads",
		Program: "nginx", Command: []string{"/bench", "reloader", "-service", "web", "-port", "5090"}, Socket: true, Conf: nginxFor(`
  proxy_connect_timeout 1s;
  upstream web { least_conn; include /tmp/upstream.conf; }
  server { listen 80; location / { proxy_pass http://web; } }
`)},
	{Name: "haproxy", What: "HAProxy with server-template, resolvers and checks",
		Program: "haproxy", Command: []string{"haproxy", "-db", "-f", "/etc/proxy.conf"}, Conf: `global
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response
resolvers docker
  nameserver engine 127.0.0.11:53
  accepted_payload_size 8192
  resolve_retries 3
  timeout resolve 1s
  timeout retry 1s
  hold valid 1s
frontend in
  bind :80
  default_backend web
backend web
  balance leastconn
  http-request disable-l7-retry if METH_POST
  server-template web 10 web:5090 check inter 1s fall 2 rise 1 resolvers docker init-addr none
`},
}

// missing says why a contender cannot run with the version of its program; empty: it can.
func (c contender) missing(version string) string {
	if c.Name == "nginx-resolve" && !atLeast(version, 1, 27, 3) {
		return "needs nginx 1.27.3, here is " + version
	}
	return ""
}
