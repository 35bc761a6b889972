package sock

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel stamps arriving datagrams only while somebody on the machine asks for
// it, and it switches that on in a work queue, some time after setsockopt has
// returned (net_enable_timestamp, net/core/dev.c). What arrives in between has no
// stamp, and recvmsg fills in the time of reading without telling (the "race
// occurred" of __sock_recv_timestamp, net/socket.c). So the first Conn of a process
// waits until stamps are really made, before it binds and joins; the others find
// them on, because an open Conn keeps them on.
var stamps struct {
	sync.Mutex
	conns int // open, and past the wait
}

const (
	// stampWait bounds the wait. On an idle machine it takes less than a millisecond.
	stampWait = 100 * time.Millisecond
	// stampBlind is waited where the host has no usable 127.0.0.1 to try it on.
	stampBlind = 20 * time.Millisecond
	// stampRetry is between two trials.
	stampRetry = 100 * time.Microsecond
)

// holdStamps returns when the kernel stamps what arrives. Its caller has a socket
// with the option set, and calls releaseStamps when that is closed.
func holdStamps() {
	stamps.Lock()
	defer stamps.Unlock()
	if stamps.conns == 0 {
		awaitStamps()
	}
	stamps.conns++
}

func releaseStamps() {
	stamps.Lock()
	defer stamps.Unlock()
	stamps.conns--
}

// awaitStamps sends datagrams to itself until one carries a time before it was
// read.
func awaitStamps() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		Sleep(stampBlind)
		return
	}
	defer unix.Close(fd)
	var to unix.Sockaddr
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 1); err == nil {
		if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err == nil {
			to, err = unix.Getsockname(fd)
		}
	}
	if err == nil {
		// Connected, it takes datagrams of nobody else.
		err = unix.Connect(fd, to)
	}
	for deadline := Now() + int64(stampWait); err == nil && Now() < deadline; {
		if err = unix.Sendto(fd, []byte{0}, 0, nil); err != nil {
			break
		}
		read := time.Now().UnixNano()
		if at, ok := stampOf(fd); ok && at <= read {
			return
		}
		Sleep(stampRetry)
	}
	if err != nil {
		Sleep(stampBlind)
	}
}

// stampOf reads a datagram and returns its time, ok where there was one.
func stampOf(fd int) (int64, bool) {
	var control [controlSize / 8]uint64
	b := unsafe.Slice((*byte)(unsafe.Pointer(&control)), controlSize)
	var payload [1]byte
	_, n, _, _, err := unix.Recvmsg(fd, payload[:], b, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, false
	}
	var m Message
	m.readControl(b[:n], 0)
	return m.Time, m.Time != 0
}
