//go:build !unix

package sock

// Foreground is true: this system knows no background.
func Foreground(uintptr) bool { return true }
