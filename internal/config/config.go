// Package config reads what users write: LONGSHORE_* variables and longshore.* labels.
//
// Both fill the same structs, by the same names: LONGSHORE_MAX_FAILS and longshore.max_fails. What
// can be said, its default and its meaning stand once, in struct tags, and the table of docs/reference.md is
// made from them:
//
//	env         name without the prefix; a label is the same in lower case
//	envDefault  default
//	min, max    smallest and largest number or duration that is allowed
//	alias       another spelling of the name
//	secret      "true": the variable of that name and _FILE may name a file that holds the value
//	form        "path": must be the path of a URL, perhaps with a query; "host": as in a Host header
//	allowed     what is allowed, for the error message and the table; else it follows from the type
//	help        meaning
package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"longshore/discovery"
)

// Prefix stands before every variable.
const Prefix = "LONGSHORE_"

// Config is the whole configuration of a process.
type Config struct {
	Listen string `env:"LISTEN" envDefault:":80" allowed:"host:port or :port" help:"where requests come in"`
	Admin  string `env:"ADMIN" envDefault:":9180" allowed:"host:port, :port or empty" help:"health, metrics, state; empty: off"`

	Upstream Upstream `env:"UPSTREAM" help:"what proxy_pass was: flaskapp:5090 or http://flaskapp:5090/; or routes: web:5090, /api=api:8000, shop.example.com/cart=cart:80, /v1=http://api:8000/ (which strips /v1), ~^/v\\d+/=api:8000. web1:5090|web2:5090, or the same route twice, is one pool. Newlines separate as commas do. Names are compose services, else container names, network aliases, external hosts"`
	Label    Selector `env:"LABEL" help:"pool all containers with this label as one service: com.ameyalokare.type=web (key or key=value)"`
	Backends Backends `env:"BACKENDS" help:"a fixed list, no Docker: 127.0.0.1:9001 weight=2, 127.0.0.1:9002 backup (parameters of nginx's server: weight, max_conns, max_fails, fail_timeout, slow_start, backup, down, drain, route)"`

	Project string `env:"PROJECT" help:"compose project to look at; *: all. Default: the proxy's own project, * if it has none"`
	Network string `env:"NETWORK" help:"network to reach containers through"`

	DefaultHost string `env:"-"` // DEFAULT_HOST, which has no prefix, as nginx-proxy has it: the host that others' requests go to

	Settings discovery.Settings

	HeaderTimeout  time.Duration  `env:"HEADER_TIMEOUT" envDefault:"60s" min:"1ms" help:"a client's request header must be complete by then"`
	IdleTimeout    time.Duration  `env:"IDLE_TIMEOUT" envDefault:"75s" min:"1ms" help:"how long a client's connection is kept open between requests"`
	BodyTimeout    time.Duration  `env:"BODY_TIMEOUT" envDefault:"60s" min:"1ms" help:"between two reads of a request's body, then 408; never while the response is an event stream"`
	BodyDir        string         `env:"BODY_DIR" allowed:"a directory that can be written to" help:"bodies larger than BODY_BUFFER are gathered there, in files without names, up to MAX_BODY, before the request takes a backend; default: they pass as they come"`
	SendTimeout    time.Duration  `env:"SEND_TIMEOUT" envDefault:"60s" min:"1ms" help:"between two moments at which a client takes something of its response, then its connection is closed; never for upgrades and event streams"`
	MaxHeader      discovery.Size `env:"MAX_HEADER" envDefault:"32k" allowed:"a size from 1k to 16m, such as 32k" help:"largest request header, then 431"`
	MaxClients     int            `env:"MAX_CLIENTS" envDefault:"0" min:"0" help:"connections of clients at once; beyond that, those are closed that have been idle for longest; 0: one for each 40k that the container may use; at most half of the files that the process may open (ulimit -n)"`
	MaxClientsAddr int            `env:"MAX_CLIENTS_PER_ADDRESS" envDefault:"0" min:"0" help:"of these from one address (IPv6: one /64) that is no trusted proxy's; beyond that, its longest idle one is closed, or the new one is answered 503; 0: no limit"`
	StickySecret   string         `env:"STICKY_SECRET" secret:"true" help:"signs the cookies of sticky sessions, so that they hold over a restart of the proxy and for several proxies; at least 16 characters; default: drawn at each start"`
	BufferMemory   discovery.Size `env:"BUFFER_MEMORY" envDefault:"0" allowed:"a size such as 64m" help:"for all that is buffered of requests and responses; when it is used up, requests are sent on as they come and not repeated; 0: a quarter of what the container may use"`
	TrustedProxies Prefixes       `env:"TRUSTED_PROXIES" help:"peers whose X-Forwarded-* are believed and appended to: CIDRs, addresses, private"`

	Underscores OnOff `env:"UNDERSCORES_IN_HEADERS" envDefault:"off" help:"on: request header fields with an underscore in their names are passed on; off: they are dropped, as nginx does (underscores_in_headers), since many applications cannot tell X_Real_IP from X-Real-IP"`

	AccessLog       AccessLog     `env:"ACCESS_LOG" envDefault:"combined" help:"to stdout, buffered"`
	LogLevel        slog.Level    `env:"LOG_LEVEL" envDefault:"info" allowed:"debug, info, warn or error" help:"of the log on stderr"`
	LogFormat       LogFormat     `env:"LOG_FORMAT" envDefault:"text" help:"of the log on stderr"`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"9s" min:"0s" help:"on SIGTERM or SIGQUIT: how long requests in flight may take; at once when there are none"`
	FastLane        OnOff         `env:"FAST_LANE" envDefault:"on" help:"plain HTTP/1.1 requests take a shorter way, which costs a fraction; off: all go through net/http"`
}

// Load reads a Config from an environment ("KEY=value" strings, as of os.Environ).
// The error has one line for each wrong variable; warnings name variables that nobody knows.
func Load(environ []string) (c Config, warnings []string, err error) {
	vars := env.ToMap(environ)
	if err := overlay(&c, Prefix, nil); err != nil {
		panic(err) // a default in a struct tag is wrong
	}
	vars, err = withSecrets(fields(reflect.TypeFor[Config](), Prefix), vars)
	err = errors.Join(err, overlay(&c, Prefix, vars))
	if v, ok := vars[Prefix+"ADMIN"]; ok && v == "" {
		c.Admin = ""
	}
	if host := vars["DEFAULT_HOST"]; host != "" {
		var wrong error
		c.DefaultHost, wrong = parseDefaultHost(host)
		err = errors.Join(err, wrong)
	}
	err = errors.Join(err, c.check(vars))

	for _, key := range []string{"UPSTREAM", "LABEL", "BACKENDS", "PROJECT"} {
		if v, ok := vars[Prefix+key]; ok && v == "" {
			warnings = append(warnings, fmt.Sprintf("%s%s is empty, which is as if it were not set; perhaps a variable in the compose file is not set", Prefix, key))
		}
	}
	known := names(fields(reflect.TypeFor[Config](), Prefix), Prefix)
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		if strings.HasPrefix(k, Prefix) && !slices.Contains(known, k) {
			warnings = append(warnings, Clip(fmt.Sprintf("unknown variable %s, ignored%s", k, nearest(k, Prefix, known))))
		}
	}
	return c, warnings, err
}

// leastSecret is how long a secret must be: one that can be guessed lets anybody choose the backend.
const leastSecret = 16

// check finds what is wrong between variables, and what a type alone cannot tell.
func (c *Config) check(vars map[string]string) error {
	var errs []error
	bad := func(key, want string) {
		errs = append(errs, fmt.Errorf("%s%s=%s: want %s", Prefix, key, Quote(vars[Prefix+key]), want))
	}
	if !isListenAddr(c.Listen) {
		bad("LISTEN", "host:port or :port")
	}
	if c.Admin != "" && !isListenAddr(c.Admin) {
		bad("ADMIN", "host:port, :port or empty")
	}
	if s := c.StickySecret; s != "" && len(s) < leastSecret {
		errs = append(errs, fmt.Errorf("%sSTICKY_SECRET has %d characters: want at least %d, such as openssl rand -hex 16 gives", Prefix, len(s), leastSecret))
	}
	if c.MaxHeader < 1<<10 || c.MaxHeader > 16<<20 {
		bad("MAX_HEADER", "a size from 1k to 16m, such as 32k")
	}
	var given []string
	for _, key := range []string{"UPSTREAM", "LABEL", "BACKENDS"} {
		if vars[Prefix+key] != "" {
			given = append(given, fmt.Sprintf("%s%s=%s", Prefix, key, Quote(vars[Prefix+key])))
		}
	}
	if len(given) > 1 {
		errs = append(errs, fmt.Errorf("%s: only one of them is allowed", strings.Join(given, " and ")))
	}
	return errors.Join(errs...)
}

func isListenAddr(s string) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, " /") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// overlay parses the variables that are set into *dst and leaves the other fields as they are; nil
// vars sets the defaults. The error has a line per wrong variable.
func overlay[T any](dst *T, prefix string, vars map[string]string) error {
	opts := env.Options{Prefix: prefix, Environment: vars, FuncMap: map[reflect.Type]env.ParserFunc{
		reflect.TypeFor[time.Duration](): func(s string) (any, error) { return discovery.ParseTime(s) },
	}}
	known := fields(reflect.TypeFor[T](), prefix)
	var errs []error
	spelling := make(map[string]string) // how the user wrote a name, if by its alias
	if vars == nil {
		opts.Environment = map[string]string{}
	} else {
		opts.DefaultValueTagName = "noDefault" // no field has it: what is not set stays as it is
		vars, spelling, errs = unalias(known, prefix, vars)
		opts.Environment = vars
	}
	// fail adds one error per variable, the first: a value that does not parse has no minimum.
	failed := make(map[string]bool)
	fail := func(key string, why string) {
		if !failed[key] {
			failed[key] = true
			errs = append(errs, errors.New(cmp.Or(spelling[key], key)+"="+Quote(vars[key])+": "+Clip(without(why, vars[key]))))
		}
	}
	var all env.AggregateError
	if err := env.ParseWithOptions(dst, opts); errors.As(err, &all) {
		for _, err := range all.Errors {
			var pe env.ParseError
			if !errors.As(err, &pe) {
				return err
			}
			for key, f := range known {
				if f.name == pe.Name {
					fail(key, f.explain(pe.Err))
				}
			}
		}
	} else if err != nil {
		return err
	}
	for key, f := range known {
		if v := vars[key]; v != "" && (f.form == "path" && !isPath(v) || f.form == "host" && !isHost(v) || f.outOfRange(reflect.ValueOf(dst).Elem().FieldByIndex(f.index))) {
			fail(key, "want "+f.wants())
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// unalias moves what is set by another spelling to the setting's own name.
func unalias(known map[string]field, prefix string, vars map[string]string) (own, spelling map[string]string, errs []error) {
	own, spelling = maps.Clone(vars), make(map[string]string)
	for key, f := range known {
		alias := prefix + f.alias
		v, both := vars[alias], vars[key]
		switch {
		case f.alias == "" || v == "":
		case both != "" && both != v:
			other := alias
			if prefix == "" {
				other = labelName(alias)
			}
			errs = append(errs, fmt.Errorf("%s=%s: %s, which is the same setting, says %s: want one of them", key, Quote(both), other, Quote(v)))
		case both == "":
			own[key], spelling[key] = v, alias
		}
	}
	return own, spelling, errs
}

// names lists what can be written.
func names(known map[string]field, prefix string) (all []string) {
	for key, f := range known {
		all = append(all, key)
		if f.alias != "" {
			all = append(all, prefix+f.alias)
		}
		if f.secret {
			all = append(all, key+fileSuffix)
		}
	}
	return all
}

// A field is one setting, read from struct tags.
type field struct {
	name      string // of the struct field: unique, because the parser's errors carry only that
	index     []int
	typ       reflect.Type
	def       string
	min, max  string
	alias     string
	form      string
	secret    bool
	allowed   string
	help      string
	inService bool // can differ from service to service, so it is a label too
}

// fields lists the settings in t by variable name.
func fields(t reflect.Type, prefix string) map[string]field {
	all := make(map[string]field)
	for _, sf := range reflect.VisibleFields(t) {
		key := sf.Tag.Get("env")
		if key == "" && sf.Type.Kind() == reflect.Struct {
			for k, f := range fields(sf.Type, prefix) {
				f.index = slices.Concat(sf.Index, f.index)
				f.inService = f.inService || sf.Type == reflect.TypeFor[discovery.Settings]()
				all[k] = f
			}
		}
		if key != "" && key != "-" {
			all[prefix+key] = field{
				name: sf.Name, index: sf.Index, typ: sf.Type, def: sf.Tag.Get("envDefault"), min: sf.Tag.Get("min"), max: sf.Tag.Get("max"),
				alias: sf.Tag.Get("alias"), form: sf.Tag.Get("form"), secret: sf.Tag.Get("secret") == "true", allowed: sf.Tag.Get("allowed"), help: sf.Tag.Get("help"),
			}
		}
	}
	return all
}

// wants says what is allowed.
func (f field) wants() string {
	switch {
	case f.allowed != "":
		return f.allowed
	case f.typ == reflect.TypeFor[time.Duration]():
		return "a duration of at least " + f.min + ", such as 500ms or 10s"
	case f.max != "":
		return "a whole number from " + f.min + " to " + f.max
	case f.typ.Kind() == reflect.Int || f.typ.Kind() == reflect.Uint16:
		return "a whole number, at least " + f.min
	}
	return ""
}

// explain says why a value does not parse: the type's own words if it has any.
func (f field) explain(err error) string {
	if w := f.wants(); w != "" {
		return "want " + w
	}
	return err.Error()
}

func isPath(s string) bool {
	_, err := url.ParseRequestURI(s)
	return err == nil && s[0] == '/'
}

// isHost reports whether s can stand in a Host header.
func isHost(s string) bool {
	u, err := url.Parse("http://" + s)
	return err == nil && u.Host == s && u.User == nil && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func (f field) outOfRange(v reflect.Value) bool {
	if most, err := strconv.ParseInt(f.max, 10, 64); err == nil && v.Int() > most {
		return true
	}
	if f.min == "" {
		return false
	}
	if d, ok := v.Interface().(time.Duration); ok {
		least, _ := time.ParseDuration(f.min)
		return d < least
	}
	least, _ := strconv.ParseInt(f.min, 10, 64)
	if v.CanUint() {
		return v.Uint() < uint64(least)
	}
	return v.Int() < least
}

// Prefixes are networks.
type Prefixes []netip.Prefix

// private is what the word "private" stands for: RFC 1918, RFC 4193, loopback and link-local.
var private = []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "::1/128", "fc00::/7", "fe80::/10"}

// UnmarshalText parses a comma list of CIDRs, addresses and the word "private".
func (p *Prefixes) UnmarshalText(b []byte) error {
	var all Prefixes
	for word := range splitList(string(b)) {
		words := []string{word}
		if word == "private" {
			words = private
		}
		for _, w := range words {
			if a, err := netip.ParseAddr(w); err == nil {
				w = netip.PrefixFrom(a, a.BitLen()).String()
			}
			prefix, err := netip.ParsePrefix(w)
			if err != nil {
				return fmt.Errorf("%q: want CIDRs, addresses or the word private", w)
			}
			all = append(all, prefix.Masked())
		}
	}
	*p = all
	return nil
}

// AccessLog is a form of the access log: combined, json or off.
type AccessLog string

// UnmarshalText accepts the known forms.
func (a *AccessLog) UnmarshalText(b []byte) error { return oneOf(a, b, "combined", "json", "off") }

// OnOff is on or off.
type OnOff string

// UnmarshalText parses an OnOff.
func (s *OnOff) UnmarshalText(b []byte) error { return oneOf(s, b, "on", "off") }

// LogFormat is a form of the log: text or json.
type LogFormat string

// UnmarshalText accepts the known forms.
func (l *LogFormat) UnmarshalText(b []byte) error { return oneOf(l, b, "text", "json") }

func oneOf[T ~string](dst *T, b []byte, allowed ...string) error {
	if !slices.Contains(allowed, string(b)) {
		return fmt.Errorf("want %s", strings.Join(allowed, ", "))
	}
	*dst = T(b)
	return nil
}

// splitList yields the trimmed, non-empty parts of a list that commas or newlines separate.
func splitList(s string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' }) {
			if part = strings.TrimSpace(part); part != "" && !yield(part) {
				return
			}
		}
	}
}
