//go:build !linux

// Package netns runs this program again in a network namespace of its own, which
// only Linux has.
package netns

import (
	"errors"
	"fmt"
	"os/exec"
)

var errNoNamespaces = fmt.Errorf("network namespaces need Linux: %w", errors.ErrUnsupported)

// ID names the network namespace of this process.
func ID() (string, error) { return "", errNoNamespaces }

// Start runs this program again in a new network namespace.
func Start([]string, ...string) (*exec.Cmd, error) { return nil, errNoNamespaces }

// Prepare sets up lo in a new namespace.
func Prepare() error { return errNoNamespaces }

// Veth makes a pair of connected interfaces.
func Veth(tx, rx string, n int) (remove func() error, err error) { return nil, errNoNamespaces }

// RestoreVeth restores a pair's addresses.
func RestoreVeth(tx, rx string, n int) error { return errNoNamespaces }

// PassRuns undoes CutRuns.
func PassRuns(iface string) error { return errNoNamespaces }

// CutRuns makes an interface hand on runs of datagrams cut.
func CutRuns(iface string) error { return errNoNamespaces }
