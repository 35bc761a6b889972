//go:build !linux

package sock

import (
	"errors"
	"fmt"
)

// unsupported is the error of every constructor on a system other than Linux.
// what names the activity, such as "recording".
func unsupported(what string) error {
	return fmt.Errorf("%s needs Linux: %w", what, errors.ErrUnsupported)
}
