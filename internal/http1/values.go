package http1

// Values appends the values of a field to dst, in order; name is in lower case. head is that of a message that is
// plain. The values are parts of it.
func Values(dst [][]byte, head []byte, name string) [][]byte {
	i := 0
	for i < len(head) && head[i] != '\n' {
		i++
	}
	var f field
	for i++; f.parse(head, i) == Plain && f.name.Len() > 0; i = f.line.To {
		if is(f.name.Of(head), name) {
			dst = append(dst, f.value.Of(head))
		}
	}
	return dst
}
