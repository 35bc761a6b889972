package report

import (
	"math"

	"github.com/HdrHistogram/hdrhistogram-go"

	"castdeck/analysis"
)

// Curve is a distribution as HDR histograms are drawn: points of nines and ns. Of all
// values the part 1 - 10^-nines is at or below ns: 0 nines is the smallest value, 1 is
// 90 %, 3 is 99.9 %. The last point is the largest value.
type Curve [][2]float64

// curve asks for ten points for each nine, of n values of which the largest is most.
func curve(n int64, least, most int64, quantile func(percent float64) int64) Curve {
	if n <= 0 {
		return nil
	}
	c := Curve{{0, float64(least)}}
	last := math.Log10(float64(n))
	for i := 1; float64(i)/10 < last; i++ {
		nines := float64(i) / 10
		v := quantile(100 * (1 - math.Pow(10, -nines)))
		c = append(c, [2]float64{nines, float64(min(max(v, least), most))})
	}
	return append(c, [2]float64{math.Round(last*1000) / 1000, float64(most)})
}

func histogramCurve(h *hdrhistogram.Histogram, least, most int64) Curve {
	if h == nil {
		return nil
	}
	return curve(h.TotalCount(), least, most, h.ValueAtQuantile)
}

func latencyCurve(l *analysis.Latency) Curve {
	if l == nil {
		return nil
	}
	return curve(l.Count(), l.Min(), l.Max(), l.Quantile)
}
