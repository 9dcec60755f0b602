package discovery

import (
	"fmt"
	"strconv"
	"strings"
)

// A Size is a number of bytes, written as nginx writes it: "1024", "32k", "10m", "1g". Zero, "0" or
// "off", means no limit.
type Size int64

// UnmarshalText parses a size.
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.ToLower(string(b))
	if text == "off" {
		*s = 0
		return nil
	}
	digits, shift := text, 0
	for suffix, by := range map[string]int{"k": 10, "m": 20, "g": 30} {
		if d, ok := strings.CutSuffix(text, suffix); ok {
			digits, shift = d, by
		}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return fmt.Errorf("%q: want a size such as 32k, 10m or off", b)
	}
	*s = Size(n) << shift
	return nil
}
