package segment

import "castdeck/format"

// mostGathered is about what the open chunks of writers that share hold together, in
// bytes.
const mostGathered = 8 << 20

// Shared is what writers of one goroutine can have in common, so that hundreds of files
// at the same time cost little more memory than one: an encoder, the buffer for a frame,
// a bound of what they gather, and one of the streams in their tables, format.MaxStreams
// together. A nil Shared is of one writer: nothing is shared. It is not safe for
// concurrent use.
type Shared struct {
	encoders map[format.Compression]*format.Encoder
	open     int // writers
	room     int // for streams
	buf      []byte
}

// NewShared is for writers to come.
func NewShared() *Shared {
	return &Shared{encoders: make(map[format.Compression]*format.Encoder), room: format.MaxStreams}
}

// Buffer is for what is written at once; nil where nothing is shared.
func (s *Shared) Buffer() *[]byte {
	if s == nil {
		return nil
	}
	return &s.buf
}

// Encoder is the one of all writers that compress so.
func (s *Shared) Encoder(c format.Compression) (*format.Encoder, error) {
	if s == nil {
		return format.NewEncoder(c)
	}
	if e := s.encoders[c]; e != nil {
		return e, nil
	}
	e, err := format.NewEncoder(c)
	if err == nil {
		s.encoders[c] = e
	}
	return e, err
}

// Limit is the number of bytes that one writer gathers where it wants to gather want.
func (s *Shared) Limit(want int) int {
	if s == nil {
		return want
	}
	return min(want, max(mostGathered/max(s.open, 1), minChunkSize))
}

// Spare is buf[:0], or nothing where one large packet made buf larger than what is
// gathered takes.
func (s *Shared) Spare(buf []byte, want int) []byte {
	if s != nil && cap(buf) > 2*s.Limit(want) {
		return nil
	}
	return buf[:0]
}

// Join and Leave count the writers.
func (s *Shared) Join() {
	if s != nil {
		s.open++
	}
}

func (s *Shared) Leave() {
	if s != nil {
		s.open--
	}
}
