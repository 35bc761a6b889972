// Package mcast knows multicast groups: how people write them, what IANA keeps
// their addresses for, which patterns select them, and the interfaces and limits
// of the machine that joins them. It opens no socket.
package mcast
