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

// Replayers are the names of the tools that Replay knows.
func Replayers() []string { return nil }

// Missing are the tools among those asked for that are not installed.
func (o ReplayOptions) Missing() []string { return nil }

// Replay needs Linux.
func Replay(context.Context, ReplayOptions) ([]ReplayRun, error) {
	return nil, fmt.Errorf("comparing replayers needs Linux: %w", errors.ErrUnsupported)
}

// PathTools are the names of the tools that Path knows.
func PathTools() []string { return nil }

// Missing are the tools among those asked for that are not installed.
func (o PathOptions) Missing() []string { return nil }

// Path needs Linux.
func Path(context.Context, PathOptions) ([]PathRun, error) {
	return nil, fmt.Errorf("comparing measurements needs Linux: %w", errors.ErrUnsupported)
}
