package sock

import (
	"maps"
	"strings"
	"testing"
)

func TestReadWildcards(t *testing.T) {
	const udp = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
   12: 00000000:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0000000000000000 0
   13: 0100007F:1389 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4243 2 0000000000000000 0
   14: 010107EF:138A 00000000:0000 07
`
	const udp6 = `  sl  local_address                         remote_address                        st
   15: 00000000000000000000000000000000:138B 00000000000000000000000000000000:0000 07
   16: 00000000000000000000000001000000:138C 00000000000000000000000000000000:0000 07
   17: 000000000000000000000000000000zz:138D
   18: 0000:138E
   19: 00000000:xyz
   20
`
	got := map[Wildcard]bool{}
	readWildcards(strings.NewReader(udp), got)
	readWildcards(strings.NewReader(udp6), got)
	want := map[Wildcard]bool{{true, 5000}: true, {true, 5003}: true, {false, 5003}: true}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
