//go:build !386

package sock

import "syscall"

const (
	sysSendto   = syscall.SYS_SENDTO
	sysSendmsg  = syscall.SYS_SENDMSG
	sysRecvfrom = syscall.SYS_RECVFROM
)
