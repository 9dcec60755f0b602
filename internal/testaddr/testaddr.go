// Package testaddr has addresses for tests to listen at.
//
// The kernel gives a port that has become free to the next who asks, which may be a test of another package that runs at
// the same time. A proxy that still dials the old owner would reach that one: a backend would get a request that was never
// meant for it. So each listener has an IP address of its own.
package testaddr

import (
	"fmt"
	"math/rand/v2"
	"runtime"
)

// New returns a random loopback address, with port 0: there are so many that each is used once. Clients that dial it have
// the address 127.0.0.1 as ever.
func New() string {
	if runtime.GOOS != "linux" { // the others have but one
		return "127.0.0.1:0"
	}
	n := rand.Uint32()
	return fmt.Sprintf("127.%d.%d.%d:0", 64+n>>16%64, n>>8%256, n%256)
}
