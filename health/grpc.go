package health

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"
)

// call asks grpc.health.v1.Health/Check over a connection, in cleartext HTTP/2 from the first byte on.
// Its messages have one field each: for them google.golang.org/grpc is not worth its size.
func call(ctx context.Context, conn net.Conn, addr string, t Target) error {
	c := t.Check
	heard, dialled := &ear{Conn: conn}, false
	tr := &http.Transport{
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHead,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if dialled {
				return nil, errors.New("the server did not take the request") // and wants it again
			}
			dialled = true
			return heard, nil
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(question(c.GRPCService)))
	if err != nil {
		return c.failed(err.Error())
	}
	req.Host = cmp.Or(c.HostHeader, addr)
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("User-Agent", userAgent)
	resp, err := tr.RoundTrip(req)
	switch {
	case err == nil:
	case timedOut(err):
		return c.failed("timeout")
	case t.Relay && !heard.something.Load():
		return errRelay
	default: // where the transport noticed it varies from one time to the next
		return c.failed("no answer in cleartext HTTP/2")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return c.failed(words(err))
	}
	if resp.StatusCode != http.StatusOK {
		return c.failed(fmt.Sprintf("HTTP status %d, not gRPC", resp.StatusCode))
	}
	status := resp.Trailer.Get("Grpc-Status")
	if why := c.judgeGRPC(cmp.Or(status, resp.Header.Get("Grpc-Status")), body); why != "" {
		return c.failed(why)
	}
	return nil
}

// An ear is a connection that tells whether anything came over it.
type ear struct {
	net.Conn
	something atomic.Bool
}

func (e *ear) Read(b []byte) (int, error) {
	n, err := e.Conn.Read(b)
	if n > 0 {
		e.something.Store(true)
	}
	return n, err
}

// judgeGRPC says what is wrong with an answer. Empty: nothing.
func (c Check) judgeGRPC(status string, body []byte) (why string) {
	code, err := strconv.Atoi(status)
	switch {
	case err != nil:
		return "the answer has no gRPC status"
	case code != 0 && code == c.GRPCStatus:
		return ""
	case code > 0 && code < len(grpcCodes):
		return fmt.Sprintf("gRPC status %d (%s)", code, grpcCodes[code])
	case code != 0:
		return fmt.Sprintf("gRPC status %d", code)
	}
	serving, err := answered(body)
	if err != nil {
		return err.Error()
	}
	if serving != 1 {
		if serving < uint64(len(servingStatus)) {
			return servingStatus[serving]
		}
		return fmt.Sprintf("serving status %d", serving)
	}
	return ""
}

// servingStatus and grpcCodes are what numbers mean.
var (
	servingStatus = [...]string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
	grpcCodes     = [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE",
		"DATA_LOSS", "UNAUTHENTICATED"}
)

// question is a HealthCheckRequest, framed: not compressed, and its length.
func question(service string) []byte {
	var m []byte
	if service != "" {
		m = protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), service)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// answered reads the status in a framed HealthCheckResponse.
func answered(b []byte) (status uint64, err error) {
	if len(b) < 5 || b[0] != 0 || uint64(len(b)-5) != uint64(binary.BigEndian.Uint32(b[1:])) {
		return 0, errors.New("the answer is not one gRPC message")
	}
	for b = b[5:]; len(b) > 0; {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, errors.New("the answer is no HealthCheckResponse")
		}
		b = b[n:]
		if num == 1 && typ == protowire.VarintType {
			status, n = protowire.ConsumeVarint(b)
		} else {
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return 0, errors.New("the answer is no HealthCheckResponse")
		}
		b = b[n:]
	}
	return status, nil
}
