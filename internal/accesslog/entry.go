package accesslog

import (
	"encoding/binary"
	"time"

	"longshore/proxy"
)

// An entry is what a batch keeps of a record. Its texts are part of the batch.
type entry struct {
	time     time.Time // local
	duration time.Duration
	bytes    int64
	status   int

	clientIP, user, method, uri, proto, referer, userAgent []byte
	host, service, upstream, reason                        []byte // if the format has them
}

// packedSize is how many bytes pack appends at most.
func packedSize(r *proxy.Record) int {
	return 3*8 + 4 + 11*4 + len(r.ClientIP) + len(r.User) + len(r.Method) + len(r.URI) + len(r.Proto) +
		len(r.Referer) + len(r.UserAgent) + len(r.Host) + len(r.Service) + len(r.Upstream) + len(r.Reason)
}

// pack appends a record. It has no loop over the texts, which would take nearly twice as long.
func pack(b []byte, r *proxy.Record, all bool) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Time.UnixNano()))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Duration))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Bytes))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Status))
	b = packText(b, r.ClientIP)
	b = packText(b, r.User)
	b = packText(b, r.Method)
	b = packText(b, r.URI)
	b = packText(b, r.Proto)
	b = packText(b, r.Referer)
	b = packText(b, r.UserAgent)
	if all {
		b = packText(b, r.Host)
		b = packText(b, r.Service)
		b = packText(b, r.Upstream)
		b = packText(b, r.Reason)
	}
	return b
}

func packText(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// unpack takes the first of the records that pack has appended, and returns the others.
func (e *entry) unpack(b []byte, all bool) (rest []byte) {
	e.time = time.Unix(0, int64(binary.LittleEndian.Uint64(b)))
	e.duration = time.Duration(binary.LittleEndian.Uint64(b[8:]))
	e.bytes = int64(binary.LittleEndian.Uint64(b[16:]))
	e.status = int(int32(binary.LittleEndian.Uint32(b[24:])))
	e.clientIP, b = unpackText(b[28:])
	e.user, b = unpackText(b)
	e.method, b = unpackText(b)
	e.uri, b = unpackText(b)
	e.proto, b = unpackText(b)
	e.referer, b = unpackText(b)
	e.userAgent, b = unpackText(b)
	if all {
		e.host, b = unpackText(b)
		e.service, b = unpackText(b)
		e.upstream, b = unpackText(b)
		e.reason, b = unpackText(b)
	}
	return b
}

func unpackText(b []byte) (s, rest []byte) {
	end := 4 + int(binary.LittleEndian.Uint32(b))
	return b[4:end], b[end:]
}
