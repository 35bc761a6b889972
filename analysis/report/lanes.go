package report

import (
	"cmp"
	"slices"

	"castdeck/analysis"
	"castdeck/format"
)

// gaps makes the table of losses and the lanes, the numberings that miss the most first.
func (b *recordingBuilder) gaps(s *analysis.StatsResult, g *analysis.GapResult) {
	r := b.d.Recording
	list := make([]*analysis.Numbering, 0, len(g.Numberings))
	for i := range g.Numberings {
		list = append(list, &g.Numberings[i])
	}
	slices.SortStableFunc(list, func(x, y *analysis.Numbering) int {
		return cmp.Or(cmp.Compare(y.Missing, x.Missing), cmp.Compare(y.Received, x.Received))
	})
	for _, n := range list[:min(len(list), maxRows)] {
		r.Numberings = append(r.Numberings, Numbering{
			Name: b.name(&n.StreamID), Protocol: n.Protocol.String(), Channel: n.Channel, Confidence: n.Confidence, Received: n.Received, Missing: n.Missing,
			Gaps: n.Ranges, Noted: n.Noted, Duplicates: n.Duplicates, Reordered: n.Reordered, Resets: n.Resets,
		})
	}
	if len(list) > maxRows {
		b.note("The table of losses has %s numberings of %s, those that miss the most.", comma(maxRows), comma(uint64(len(list))))
	}
	b.lanes(s, list)
}

func (b *recordingBuilder) lanes(s *analysis.StatsResult, list []*analysis.Numbering) {
	spans := make(map[format.StreamID][2]int64, len(s.Streams))
	for i := range s.Streams {
		t := &s.Streams[i]
		spans[t.StreamID] = [2]int64{t.First, t.Last}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(n *analysis.Numbering) bool { return n.Protocol == analysis.Unknown })
	shown := list[:min(len(list), maxLanes)]
	if len(shown) < len(list) {
		b.note("Gaps over time are shown of the %s numberings of %s that miss the most.", comma(maxLanes), comma(uint64(len(list))))
	}
	unseen := uint64(0)
	for _, n := range shown {
		span, ok := spans[n.StreamID]
		if !ok {
			continue // of a stream past those that are told apart
		}
		lane := Lane{Label: n.Dst.String(), Source: n.Src.String(), FromNS: span[0] - b.start, ToNS: span[1] - b.start, Marks: [][5]int64{}}
		if n.Channel != "" {
			lane.Label += " " + n.Channel
		}
		for _, g := range n.Gaps {
			lane.Marks = append(lane.Marks, [5]int64{g.Since - b.start, g.Time - b.start, int64(g.Count), int64(g.Noted), 1})
		}
		unseen += n.Ranges - uint64(len(n.Gaps))
		lane.Marks = joinMarks(lane.Marks, maxMarks/len(shown))
		b.d.Recording.Lanes = append(b.d.Recording.Lanes, lane)
	}
	if unseen > 0 {
		b.note("%s not shown over time: each numbering has its first 1,000.", plural(unseen, "gap"))
	}
}

// joinMarks makes one of marks that are close to each other, where there are more than
// most.
func joinMarks(marks [][5]int64, most int) [][5]int64 {
	slices.SortFunc(marks, func(x, y [5]int64) int { return cmp.Compare(x[1], y[1]) })
	if len(marks) <= most {
		return marks
	}
	first, last := marks[0][1], marks[len(marks)-1][1]
	width := (last-first)/int64(most) + 1
	joined := marks[:1]
	for _, m := range marks[1:] {
		o := &joined[len(joined)-1]
		if (m[1]-first)/width != (o[1]-first)/width {
			joined = append(joined, m)
			continue
		}
		*o = [5]int64{min(o[0], m[0]), m[1], o[2] + m[2], o[3] + m[3], o[4] + m[4]}
	}
	return joined
}
