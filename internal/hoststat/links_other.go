//go:build !linux

package hoststat

func links(string) (InterfaceLosses, bool) { return InterfaceLosses{}, false }
