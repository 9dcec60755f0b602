package health

import "testing"

func TestStatusSet(t *testing.T) {
	for _, tt := range []struct {
		text    string
		in, out []int // codes in the set, and not
	}{
		{"200-399", []int{200, 204, 302, 399}, []int{199, 400, 0, -1, 65736}}, // 65736 is 200 as a uint16
		{"200", []int{200}, []int{199, 201}},
		{"200,204, 300-399", []int{200, 204, 300, 399}, []int{201, 299}},
		{"100-599", []int{100, 599}, []int{99, 600}},
		{"200,201,202,203,204,205,206,207", []int{207}, []int{208}},
	} {
		var s StatusSet
		if err := s.UnmarshalText([]byte(tt.text)); err != nil {
			t.Errorf("%q: %v", tt.text, err)
		}
		if s.String() != tt.text {
			t.Errorf("%q prints as %q", tt.text, s)
		}
		for _, code := range tt.in {
			if !s.Contains(code) {
				t.Errorf("%q lacks %d", tt.text, code)
			}
		}
		for _, code := range tt.out {
			if s.Contains(code) {
				t.Errorf("%q contains %d", tt.text, code)
			}
		}
	}
	if (StatusSet{}).Contains(200) {
		t.Error("the empty set contains 200")
	}
}

func TestStatusSetRefuses(t *testing.T) {
	for _, text := range []string{
		"", ",", "200,", "ok", "2xx", "-", "200-", "-200", "200-300-400", "+200", "200 - 300",
		"399-200", "99", "600", "0-999", "65736", "200,201,202,203,204,205,206,207,208",
	} {
		s := StatusSet{text: "before"}
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: no error", text)
		}
		if s != (StatusSet{text: "before"}) {
			t.Errorf("%q: an error, and the set has changed", text)
		}
	}
}

func FuzzStatusSet(f *testing.F) {
	for _, text := range []string{"200-399", "200,204, 300-399", "", "99", "399-200", "200,,204"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s, again StatusSet
		if s.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q reads as %+v, %v when printed and read again, want %+v", text, again, err, s)
		}
		n := 0
		for code := -1000; code < 100_000; code++ {
			if s.Contains(code) {
				n++
				if code < 100 || code > 599 {
					t.Errorf("%q contains %d", text, code)
				}
			}
		}
		if n == 0 {
			t.Errorf("%q contains nothing", text)
		}
	})
}
