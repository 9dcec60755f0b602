//go:build !linux

package sock

import (
	"syscall"
	"time"
)

// A Set waits for many sockets at once. There is none on this system.
type Set struct{}

// NewSet returns an error.
func NewSet() (*Set, error) { return nil, syscall.ENOTSUP }

func (s *Set) Add(uintptr) error                     { return syscall.ENOTSUP }
func (s *Set) Remove(uintptr) error                  { return syscall.ENOTSUP }
func (s *Set) Wait(fds []uintptr) ([]uintptr, error) { return fds, syscall.ENOTSUP }
func (s *Set) SetDeadline(time.Time)                 {}
func (s *Set) Close()                                {}
