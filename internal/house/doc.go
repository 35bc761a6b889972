// Package house holds no code: its test keeps the architecture of docs/DESIGN.md,
// the map of which package may import which.
package house
