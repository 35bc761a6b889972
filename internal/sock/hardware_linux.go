package sock

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// HardwareClock makes the network card stamp every packet that it receives, and
// returns the index of its clock, /dev/ptpN; -1 where it has no such device. The
// setting is the interface's and stays: others may rely on it by then.
//
// The error says what the interface can do instead.
func HardwareClock(i *net.Interface) (phc int, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", i.Name, os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolTsInfo(fd, i.Name)
	if err != nil {
		return 0, fmt.Errorf("%s: asking for its timestamps: %w", i.Name, os.NewSyscallError("ioctl", err))
	}
	if err := stampsAll(i.Name, info); err != nil {
		return 0, err
	}
	config := &unix.HwTstampConfig{}
	if current, err := unix.IoctlGetHwTstamp(fd, i.Name); err == nil {
		config = current // keep what a time daemon has set for sending
	}
	if config.Rx_filter != unix.HWTSTAMP_FILTER_ALL {
		config.Rx_filter = unix.HWTSTAMP_FILTER_ALL
		if err := unix.IoctlSetHwTstamp(fd, i.Name, config); err != nil {
			hint := ""
			if err == unix.EPERM {
				hint = fmt.Sprintf(" (needs CAP_NET_ADMIN, or have them switched on before: hwstamp_ctl -i %s -r 1)", i.Name)
			}
			return 0, fmt.Errorf("%s: switching hardware timestamps on: %w%s", i.Name, os.NewSyscallError("SIOCSHWTSTAMP", err), hint)
		}
		if config.Rx_filter != unix.HWTSTAMP_FILTER_ALL { // the driver tells what it did
			return 0, fmt.Errorf("%s: its driver stamps some packets only (filter %d); use the kernel's timestamps", i.Name, config.Rx_filter)
		}
	}
	return int(info.Phc_index), nil
}

// stampsAll says in words why an interface cannot stamp all that it receives.
func stampsAll(name string, info *unix.EthtoolTsInfo) error {
	const wanted = unix.SOF_TIMESTAMPING_RX_HARDWARE | unix.SOF_TIMESTAMPING_RAW_HARDWARE
	if info.So_timestamping&wanted == wanted && info.Rx_filters&(1<<unix.HWTSTAMP_FILTER_ALL) != 0 {
		return nil
	}
	var can []string
	for _, c := range []struct {
		bit  uint32
		what string
	}{
		{unix.SOF_TIMESTAMPING_RX_SOFTWARE, "software-receive"}, {unix.SOF_TIMESTAMPING_TX_SOFTWARE, "software-transmit"},
		{unix.SOF_TIMESTAMPING_RX_HARDWARE, "hardware-receive"}, {unix.SOF_TIMESTAMPING_TX_HARDWARE, "hardware-transmit"},
		{unix.SOF_TIMESTAMPING_RAW_HARDWARE, "hardware-raw-clock"},
	} {
		if info.So_timestamping&c.bit != 0 {
			can = append(can, c.what)
		}
	}
	has := strings.Join(can, ", ")
	if has == "" {
		has = "none"
	}
	if info.So_timestamping&wanted == wanted {
		has += ", of some packets such as PTP only"
	}
	return fmt.Errorf("%s: no hardware timestamps of what it receives (ethtool -T %s: %s); use the kernel's timestamps", name, name, has)
}
