package sock

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"castdeck/internal/netnstest"
)

// controlMessage is one as the kernel lays it out.
func controlMessage(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func TestHardwareStamps(t *testing.T) {
	// struct scm_timestamping64: software, nothing, raw hardware.
	stamps := func(software, hardware int64) []byte {
		var b []byte
		for _, t := range []int64{software, 0, hardware} {
			b = binary.NativeEndian.AppendUint64(b, uint64(t/1e9))
			b = binary.NativeEndian.AppendUint64(b, uint64(t%1e9))
		}
		return controlMessage(unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, b)
	}
	for _, c := range []struct {
		name     string
		control  []byte
		time     int64
		hardware bool
	}{
		{"both", stamps(1_700_000_000_000_000_001, 1_700_000_037_999_999_999), 1_700_000_037_999_999_999, true},
		{"the card gave none", stamps(1_700_000_000_000_000_001, 0), 1_700_000_000_000_000_001, false},
		{"the card alone", stamps(0, 5), 5, true},
		{"neither", stamps(0, 0), 0, false},
		{"cut short", controlMessage(unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, make([]byte, 40)), 0, false},
		{"nothing", nil, 0, false},
	} {
		for _, behind := range []bool{false, true} {
			control := c.control
			if behind { // another message must not hide it
				control = append(controlMessage(unix.IPPROTO_IP, unix.IP_TTL, []byte{7, 0, 0, 0}), control...)
			}
			var m Message
			m.readControl(control, 0)
			if m.Time != c.time || m.Hardware != c.hardware {
				t.Errorf("%s: %d, hardware %t; want %d, %t", c.name, m.Time, m.Hardware, c.time, c.hardware)
			}
		}
	}
	if room := unix.CmsgSpace(48) + unix.CmsgSpace(4) + unix.CmsgSpace(4) + unix.CmsgSpace(20); room > controlSize {
		t.Errorf("all messages take %d bytes, there is room for %d", room, controlSize)
	}
}

func TestStampsAll(t *testing.T) {
	const all = unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE
	for _, c := range []struct {
		can, filters uint32
		want         string
	}{
		{all, 1 << unix.HWTSTAMP_FILTER_ALL, ""},
		{all | unix.SOF_TIMESTAMPING_RX_SOFTWARE, 1<<unix.HWTSTAMP_FILTER_NONE | 1<<unix.HWTSTAMP_FILTER_ALL, ""},
		{unix.SOF_TIMESTAMPING_RX_SOFTWARE | unix.SOF_TIMESTAMPING_TX_SOFTWARE, 0,
			"eth0: no hardware timestamps of what it receives (ethtool -T eth0: software-receive, software-transmit); use the kernel's timestamps"},
		{all, 1 << unix.HWTSTAMP_FILTER_PTP_V2_EVENT,
			"eth0: no hardware timestamps of what it receives (ethtool -T eth0: hardware-receive, hardware-raw-clock, of some packets such as PTP only); use the kernel's timestamps"},
		{0, 0, "eth0: no hardware timestamps of what it receives (ethtool -T eth0: none); use the kernel's timestamps"},
	} {
		err := stampsAll("eth0", &unix.EthtoolTsInfo{So_timestamping: c.can, Rx_filters: c.filters})
		if got := ""; err != nil {
			if got = err.Error(); got != c.want {
				t.Errorf("%s\nwant %s", got, c.want)
			}
		} else if c.want != "" {
			t.Errorf("no error, want %s", c.want)
		}
	}
}

func TestNoHardwareClock(t *testing.T) {
	_, rx := netnstest.Veth(t)
	i, err := net.InterfaceByName(rx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := HardwareClock(i); err == nil || !strings.HasPrefix(err.Error(), rx+": no hardware timestamps") {
		t.Errorf("%v", err)
	}
	if _, err := HardwareClock(&net.Interface{Name: "gone"}); err == nil || !strings.HasPrefix(err.Error(), "gone: asking for its timestamps: ioctl: no such device") {
		t.Errorf("%v", err)
	}
}

// TestSocketWithBothStamps: asking for the card's times on an interface without a
// clock still gives the kernel's.
func TestSocketWithBothStamps(t *testing.T) {
	netnstest.Require(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, hardwareStamps); err != nil {
		t.Fatal(err)
	}
	holdStamps()
	defer releaseStamps()
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(fd, []byte{1}, 0, own); err != nil {
		t.Fatal(err)
	}
	var control [controlSize]byte
	_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 8), control[:], 0)
	if err != nil {
		t.Fatal(err)
	}
	var m Message
	if m.readControl(control[:n], 0); m.Time == 0 || m.Hardware {
		t.Errorf("time %d, hardware %t", m.Time, m.Hardware)
	}
}
