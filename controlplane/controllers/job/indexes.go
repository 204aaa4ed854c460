package job

import (
	"slices"
	"strconv"
	"strings"
)

// indexes is a set of completion indexes, kept as ordered ranges, the way a Job's status writes them: "1,3-5".
type indexes []span

type span struct{ first, last int }

// parseIndexes reads a status field; what lies beyond completions, or can't be read, is left out.
func parseIndexes(s string, completions int) indexes {
	var out indexes
	if s == "" {
		return nil
	}
	for _, part := range strings.Split(s, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first >= completions {
			continue
		}
		last := first
		if ranged {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
			last = min(last, completions-1)
		}
		out = out.merge(indexes{{first, last}})
	}
	return out
}

// String writes the set; two neighbours are written with a comma, three with a dash.
func (x indexes) String() string {
	var b strings.Builder
	for _, s := range x {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(s.first))
		if s.last > s.first {
			if s.last == s.first+1 {
				b.WriteByte(',')
			} else {
				b.WriteByte('-')
			}
			b.WriteString(strconv.Itoa(s.last))
		}
	}
	return b.String()
}

func (x indexes) len() (n int) {
	for _, s := range x {
		n += s.last - s.first + 1
	}
	return n
}

func (x indexes) has(i int) bool {
	at, found := slices.BinarySearchFunc(x, i, func(s span, i int) int {
		switch {
		case s.last < i:
			return -1
		case s.first > i:
			return 1
		default:
			return 0
		}
	})
	return found && at < len(x)
}

// with adds single indexes, in any order.
func (x indexes) with(add ...int) indexes {
	if len(add) == 0 {
		return x
	}
	add = slices.Clone(add)
	slices.Sort(add)
	more := make(indexes, 0, len(add))
	for _, i := range slices.Compact(add) {
		more = append(more, span{i, i})
	}
	return x.merge(more)
}

// merge is the union.
func (x indexes) merge(y indexes) indexes {
	all := append(slices.Clone(x), y...)
	slices.SortFunc(all, func(a, b span) int { return a.first - b.first })
	var out indexes
	for _, s := range all {
		if n := len(out); n > 0 && s.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, s.last)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// common is how many indexes are in both sets.
func (x indexes) common(y indexes) (n int) {
	for i, j := 0, 0; i < len(x) && j < len(y); {
		if overlap := min(x[i].last, y[j].last) - max(x[i].first, y[j].first) + 1; overlap > 0 {
			n += overlap
		}
		if x[i].last < y[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

// missing lists the first n indexes below completions that are not in the set.
func (x indexes) missing(n, completions int) []int {
	var out []int
	next := 0
	for _, s := range append(slices.Clone(x), span{completions, completions}) {
		for ; next < s.first && next < completions && len(out) < n; next++ {
			out = append(out, next)
		}
		next = max(next, s.last+1)
	}
	return out
}
