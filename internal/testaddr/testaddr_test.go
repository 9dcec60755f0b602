package testaddr

import (
	"net"
	"testing"
)

// TestNew: an address that was listened at refuses connections, whoever has its port afterwards.
func TestNew(t *testing.T) {
	first, err := net.Listen("tcp", New())
	if err != nil {
		t.Fatal(err)
	}
	addr := first.Addr().(*net.TCPAddr)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.LocalAddr().(*net.TCPAddr).IP.String(), "127.0.0.1"; got != want {
		t.Errorf("a client has the address %s, want %s", got, want)
	}
	c.Close()
	first.Close()
	host, _, _ := net.SplitHostPort(New())
	next, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(host), Port: addr.Port})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if c, err := net.Dial("tcp", addr.String()); err == nil {
		c.Close()
		t.Errorf("%v is reached by %v", next.Addr(), addr)
	}
}
