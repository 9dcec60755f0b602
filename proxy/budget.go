package proxy

import "sync/atomic"

// A budget bounds the memory of all that is buffered for clients and backends: parts of requests, bodies that are
// kept to be sent again, responses that wait for slow clients. Who wants to buffer takes first, and gives back
// what was taken, neither more nor less. Who gets nothing reads no further, gives up repetition, or
// streams; no request that could stream is refused for it. The zero value has no limit.
type budget struct {
	limit   int64 // bytes; zero: none. Set before the first take
	used    atomic.Int64
	refused atomic.Uint64 // how often there was not enough
}

// take reserves n bytes, if there are as many.
func (b *budget) take(n int) bool {
	if used := b.used.Add(int64(n)); b.limit > 0 && used > b.limit {
		b.used.Add(int64(-n))
		b.refused.Add(1)
		return false
	}
	return true
}

// force takes n bytes that are in memory already.
func (b *budget) force(n int) { b.used.Add(int64(n)) }

// full reports whether there is nothing left.
func (b *budget) full() bool { return b.limit > 0 && b.used.Load() >= b.limit }

// give returns n bytes that were taken.
func (b *budget) give(n int) { b.used.Add(int64(-n)) }

// A loan is what was taken of a budget for something that changes hands. nil: nothing.
type loan struct {
	from *budget
	n    atomic.Int64
}

// settle gives it back, once.
func (l *loan) settle() {
	if l != nil {
		l.from.give(int(l.n.Swap(0)))
	}
}
