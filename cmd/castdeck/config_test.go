package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// configured runs a command with --config and returns its arguments and flags.
func configured(t *testing.T, config string, args ...string) (map[string]string, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	cmd := &cobra.Command{Use: "fly PLACE...", SilenceErrors: true, SilenceUsage: true,
		Args: argsN(1, 3, "one to three places"),
		RunE: func(_ *cobra.Command, args []string) error { got = args; return nil }}
	fl := cmd.Flags()
	fl.String("output", "", "")
	fl.Bool("force", false, "")
	fl.StringArray("only", []string{"default"}, "")
	buffer := sizeValue{bytes: 1, min: 1, max: 1 << 20}
	fl.Var(&buffer, "buffer", "")
	configurable(cmd, "places")
	cmd.SetArgs(append([]string{"--config", path}, args...))
	err := cmd.Execute()
	only, _ := fl.GetStringArray("only")
	return map[string]string{
		"output": fl.Lookup("output").Value.String(), "force": fl.Lookup("force").Value.String(),
		"buffer": buffer.String(), "only": strings.Join(only, " "),
	}, got, err
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		name, config, args string
		want               map[string]string
		places             string
	}{
		{"everything", "output: x.pcap # where\nforce: true\nbuffer: 64KiB\nonly: [a, b]\nplaces:\n  - one\n  - 2\n", "",
			map[string]string{"output": "x.pcap", "force": "true", "buffer": "64KiB", "only": "a b"}, "one 2"},
		{"the command line wins", "output: x.pcap\nforce: true\nonly: [a, b]\nplaces: [one, two]\n", "--output y --force=false --only c three",
			map[string]string{"output": "y", "force": "false", "buffer": "1B", "only": "c"}, "three"},
		{"one value for many", "only: a\nplaces: one\n", "", map[string]string{"output": "", "force": "false", "buffer": "1B", "only": "a"}, "one"},
		{"numbers as they stand", "output: 0x10\nplaces: 007\n", "", map[string]string{"output": "0x10", "force": "false", "buffer": "1B", "only": "default"}, "007"},
		{"nothing", "# later\n", "one", map[string]string{"output": "", "force": "false", "buffer": "1B", "only": "default"}, "one"},
	} {
		got, places, err := configured(t, c.config, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for key, want := range c.want {
			if got[key] != want {
				t.Errorf("%s: %s is %q, want %q", c.name, key, got[key], want)
			}
		}
		if p := strings.Join(places, " "); p != c.places {
			t.Errorf("%s: places %q, want %q", c.name, p, c.places)
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, config, args, want string }{
		{"an unknown key", "output: x\nbufer: 1KiB\n", "one", "c.yaml:2: fly has no flag --bufer, did you mean buffer?"},
		{"a far key", "colour: x\n", "one", "c.yaml:1: fly has no flag --colour"},
		{"near the arguments", "place: x\n", "", "did you mean places?"},
		{"help", "help: true\n", "one", "fly has no flag --help"},
		{"itself", "config: c.yaml\n", "one", "fly has no flag --config"},
		{"a bad value", "places: one\n\nbuffer: 64\n", "", `c.yaml:3: invalid argument "64" for "--buffer" flag: "64" has no unit`},
		{"a list for one value", "output: [a, b]\n", "one", "c.yaml:1: output: a list, and --output takes one value"},
		{"a map", "output: {a: b}\n", "one", "c.yaml:1: output: a map is no value for it"},
		{"nothing", "output:\n", "one", "c.yaml:1: output: nothing is no value for it"},
		{"a bool for text", "output: true\n", "one", `c.yaml:1: output: "true" is no value for it`},
		{"text for a bool", "force: yes\n", "one", `c.yaml:1: force: "yes" is neither true nor false`},
		{"a list for a bool", "force: [true]\n", "one", "c.yaml:1: force: a list is neither true nor false"},
		{"a map in a list", "only:\n- a\n- {b: c}\n", "one", "c.yaml:3: only: a map is no value for it"},
		{"a wrong type, though the command line wins", "output: [a]\n", "--output y one", "takes one value"},
		{"a key twice", "output: a\noutput: b\n", "one", "c.yaml:2: no valid YAML: mapping key \"output\" already defined"},
		{"a list", "- output\n", "one", "c.yaml:1: a list where keys were expected"},
		{"text", "output\n", "one", `c.yaml:1: "output" where keys were expected`},
		{"no arguments at all", "output: x\n", "", "fly: name one to three places"},
		{"too many", "places: [a, b, c, d]\n", "", "too many arguments"},
		{"an anchor", "output: &a x\n", "one", "c.yaml:1: output: a YAML anchor, alias or tag is no value for it"},
		{"too long", strings.Repeat("# x\n", 100_000), "one", "c.yaml is longer than 256KiB"},
	} {
		_, _, err := configured(t, c.config, strings.Fields(c.args)...)
		var exit *exitError
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &exit) || exit.code != exitUsage {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
