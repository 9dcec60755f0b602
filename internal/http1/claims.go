package http1

// IsClaim reports whether a field says from whom, and by what URL, a request was before a proxy passed it on.
// Applications believe such fields, so they are for proxies to write, and dropped when a client does. Names of one
// vendor's network (CF-Connecting-IP) and of users (Remote-User) are not among them: what sets those stands behind
// this proxy as often as before it.
func IsClaim(name []byte) bool {
	if len(name) == 0 {
		return false
	}
	switch name[0] | 0x20 {
	case 'c':
		return is(name, "client-ip")
	case 'f':
		return begins(name, "forwarded") || is(name, "front-end-https")
	case 't':
		return is(name, "true-client-ip")
	case 'x':
		return begins(name, "x-forwarded") || begins(name, "x-original-") || is(name, "x-real-ip") || is(name, "x-client-ip") ||
			is(name, "x-cluster-client-ip") || is(name, "x-rewrite-url") || is(name, "x-scheme") || is(name, "x-url-scheme")
	}
	return false
}

// IsOurClaim reports whether a claim is one that every request is given anew, with what a trusted proxy has said in it.
func IsOurClaim(name []byte) bool {
	return is(name, "x-forwarded-for") || is(name, "x-forwarded-host") || is(name, "x-forwarded-proto") || is(name, "x-forwarded-port") ||
		is(name, "x-real-ip") || is(name, "forwarded")
}

// IsDirective reports whether a field of a response tells nginx what to do with it. Clients have no use for those, and
// X-Accel-Redirect names paths that are nobody's business.
func IsDirective(name []byte) bool { return begins(name, "x-accel-") }

// begins is like is, for the beginning.
func begins(name []byte, s string) bool { return len(name) >= len(s) && is(name[:len(s)], s) }
