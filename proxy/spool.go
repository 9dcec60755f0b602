package proxy

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// A spool holds bytes in order: the first of them in a file that has no name, if there is one, the others in memory.
type spool struct {
	memory []byte
	file   *os.File
	filed  int64 // bytes in the file
}

func (s *spool) size() int64 { return s.filed + int64(len(s.memory)) }

// readAt reads bytes that are there.
func (s *spool) readAt(p []byte, off int64) (int, error) {
	switch {
	case off >= s.filed:
		return copy(p, s.memory[off-s.filed:]), nil
	case s.file == nil:
		return 0, errBodyDetached
	}
	n, err := s.file.ReadAt(p[:min(int64(len(p)), s.filed-off)], off)
	if n > 0 {
		return n, nil
	} else if err == io.EOF { // somebody has cut it
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// spill moves what is in memory to a file in dir. What cannot be written stays.
func (s *spool) spill(dir string) (err error) {
	if s.file == nil {
		if s.file, err = TempFile(dir); err != nil {
			return err
		}
	}
	n, err := s.file.WriteAt(s.memory, s.filed)
	s.filed += int64(n)
	s.memory = append(s.memory[:0], s.memory[n:]...)
	return err
}

// close lets go of the file.
func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// TempFile opens a new file in dir that has no name, so that nothing is left of it whatever happens.
func TempFile(dir string) (*os.File, error) {
	const tmpfile = 020000000 | syscall.O_DIRECTORY // O_TMPFILE, which package syscall lacks
	f, err := os.OpenFile(dir, os.O_RDWR|tmpfile, 0o600)
	if err == nil || !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EISDIR) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, "longshore-body-"); err != nil { // a file system without O_TMPFILE
		return nil, err
	}
	return f, os.Remove(f.Name())
}
