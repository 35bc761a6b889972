// Package sock holds all unsafe code and every raw system call of castdeck: the
// receiving of datagrams by recvmmsg, the sending by sendmmsg, control messages,
// socket options and the clocks that go with them. Nothing else in the module
// imports unsafe.
//
// Its descriptors stay outside the Go runtime's poller. The runtime's epoll
// wakes a thread for every datagram even while no goroutine waits for it, and on
// a busy feed the wakeup is the cost, not the system call: a loop that reads
// without waiting and sleeps a little after each partial batch needs a quarter of
// the time per datagram.
//
// The package is a leaf. It starts no goroutine, logs nothing and allocates
// nothing per datagram. It works on Linux; elsewhere it builds, and every
// constructor returns an error that wraps errors.ErrUnsupported.
package sock
