package sidebyside

import (
	"context"
	"testing"
	"time"

	"castdeck/internal/netnstest"
)

// TestPathSaid reads what the tools said in a run that was looked at by hand.
func TestPathSaid(t *testing.T) {
	var r PathRun
	if err := iperfSaid(`[  1] local 239.77.1.1 port 5077 connected with 10.1.1.1 port 34519 (trip-times) (sock=3) (peer 2.1.8) on 2026-11-22 21:05:41 (UTC)
[ ID] Interval            Transfer     Bandwidth        Jitter   Lost/Total  Latency avg/min/max/stdev PPS  Rx/inP  NetPwr
[  1] 0.0000-2.0001 sec  4.88 MBytes  20.5 Mbits/sec   0.002 ms 7/20003 (0.035%) 0.004/0.001/0.114/0.003 ms 10001 pps 20003/0(0) pkts 658425
`, "", &r); err != nil || r.Sent != 20003 || r.Lost != 7 || r.Jitter != 2000 || r.Mean != 4000 || r.Least != 1000 || r.Most != 114_000 || r.Rate < 10_000 || r.Rate > 10_002 {
		t.Errorf("iperf: %+v, %v", r, err)
	}
	r = PathRun{}
	if err := sockperfSaid("", `sockperf: [Total Run] RunTime=2.000 sec; Warm up time=400 msec; SentMessages=19708; ReceivedMessages=15138
sockperf: [Valid Duration] RunTime=1.548 sec; SentMessages=15807; ReceivedMessages=11917
sockperf: # dropped messages = 3890; # duplicated messages = 0; # out-of-order messages = 0
sockperf: ---> <MAX> observation = 39891.236
sockperf: ---> percentile 99.900 = 39871.467
sockperf: ---> percentile 99.000 = 34890.130
sockperf: ---> percentile 50.000 =  615.002
`, &r); err != nil || r.Sent != 15807 || r.Lost != 3890 || r.RoundTrip != (Quantiles{615_002, 34_890_130, 39_871_467, 39_891_236}) || r.Rate < 10_200 || r.Rate > 10_220 {
		t.Errorf("sockperf: %+v, %v", r, err)
	}
	for name, said := range map[string]func(string, string, *PathRun) error{"castdeck": castdeckSaid, "iperf2": iperfSaid, "sockperf": sockperfSaid} {
		if said("connect failed: Network is unreachable", "", &r) == nil {
			t.Errorf("%s: an error was taken for a result", name)
		}
	}
}

// TestPath lets each tool that is here measure each kind once, with a loss that is known.
func TestPath(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command and runs every tool")
	}
	netnstest.Require(t)
	o := PathOptions{Castdeck: castdeck(t), Repeat: 1, Duration: 200 * time.Millisecond, Cases: []PathCase{
		{OneWay, 2e3, 200, 0}, {OneWay, 2e3, 200, 10}, {PingPong, 0, 200, 0}, {UnderLoad, 500, 200, 0},
	}}
	for _, name := range o.Missing() {
		t.Logf("%s is not installed: left out", name)
	}
	runs, err := Path(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[PathKind]bool{}
	for _, r := range runs {
		if r.Err != nil {
			t.Errorf("%s, %s: %v", r.Tool, r.Case.Kind, r.Err)
			continue
		}
		if r.Tool == "castdeck" {
			kinds[r.Case.Kind] = true
		}
		if r.Sent == 0 || r.Lost > r.Sent || len(r.Sender) == 0 || len(r.Receiver) == 0 || r.Case.Kind == OneWay && r.Most <= 0 || r.Case.Kind != OneWay && r.RoundTrip.P50 <= 0 {
			t.Errorf("%+v", r)
		}
		// What nftables dropped includes greetings and goodbyes, which are sent again.
		if r.Tool == "castdeck" && r.Case.Drop > 0 && (r.Lost == 0 || r.Lost > r.Dropped || r.Dropped < r.Sent/10) {
			t.Errorf("%d of %d lost, %d dropped on purpose", r.Lost, r.Sent, r.Dropped)
		}
	}
	if len(kinds) != 3 {
		t.Errorf("castdeck measured %v", kinds)
	}
	if _, err := Path(context.Background(), PathOptions{Tools: []string{"nosuch"}}); err == nil {
		t.Error("a tool that nobody knows was taken")
	}
}
