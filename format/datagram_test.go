package format

import (
	"testing"
	"unsafe"
)

func TestDatagramSize(t *testing.T) {
	if got := int(unsafe.Sizeof(Datagram{})); got != datagramSize {
		t.Errorf("datagramSize is %d, the struct takes %d", datagramSize, got)
	}
}
