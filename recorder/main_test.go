package recorder

import (
	"testing"

	"castdeck/internal/netnstest"
)

func TestMain(m *testing.M) { netnstest.Main(m) }
