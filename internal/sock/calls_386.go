//go:build linux

package sock

// On this architecture package syscall knows socketcall(2) alone, which takes the arguments from memory. Linux has
// had the calls themselves since 4.3.
const (
	sysSendto   = 369
	sysSendmsg  = 370
	sysRecvfrom = 371
)
