package report

import (
	"math"

	"castdeck/analysis"
)

// arrivalClasses gathers times between datagrams by 1, 2 and 5 of each power of ten; the
// empty ones at both ends are left out.
func arrivalClasses(t *analysis.Traffic) (all []ClassCount) {
	if t.Arrivals == nil || t.Arrivals.TotalCount() == 0 {
		return []ClassCount{}
	}
	from := int64(0)
	for base := int64(1); base <= 1e13; base *= 10 {
		for _, m := range []int64{1, 2, 5} {
			all = append(all, ClassCount{From: from, To: m*base - 1})
			from = m * base
		}
	}
	i := 0
	for _, bar := range t.Arrivals.Distribution() { // in rising order
		for i < len(all)-1 && bar.To > all[i].To {
			i++
		}
		all[i].Datagrams += uint64(bar.Count)
	}
	return trim(all)
}

// sizeClasses of payload are powers of two.
func sizeClasses(t *analysis.Traffic) (all []ClassCount) {
	for i, n := range t.Sizes {
		c := ClassCount{Datagrams: n}
		if i > 0 {
			c.From, c.To = 1<<(i-1), 1<<i-1
		}
		all = append(all, c)
	}
	return trim(all)
}

// trim leaves out the empty classes at both ends.
func trim(all []ClassCount) []ClassCount {
	first, end := math.MaxInt, 0
	for i := range all {
		if all[i].Datagrams > 0 {
			first, end = min(first, i), i+1
		}
	}
	if end == 0 {
		return []ClassCount{}
	}
	return all[first:end]
}
