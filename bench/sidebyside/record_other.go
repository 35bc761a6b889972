//go:build !linux

package sidebyside

import (
	"context"
	"errors"
	"fmt"
)

// Recorders are the names of the tools that Record knows.
func Recorders() []string { return nil }

// Missing are the tools among those asked for that are not installed.
func (o RecordOptions) Missing() []string { return nil }

// Record needs Linux.
func Record(context.Context, RecordOptions) ([]RecordRun, error) {
	return nil, fmt.Errorf("comparing recorders needs Linux: %w", errors.ErrUnsupported)
}
