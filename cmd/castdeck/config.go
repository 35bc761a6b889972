package main

import (
	"github.com/goccy/go-yaml/ast"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const maxConfig = 256 << 10

// configurable gives a command the flag --config: a YAML file whose keys are the
// command's long flags, and arguments for what it takes besides ("" for nothing).
func configurable(cmd *cobra.Command, arguments string) {
	var path string
	var extra []string
	cmd.Flags().StringVar(&path, "config", "", "read flags from a YAML `FILE`: a key for each long flag; those given here win")
	check, run := cmd.Args, cmd.RunE
	// cobra checks the arguments when it has read the flags, before anything else.
	cmd.Args = func(c *cobra.Command, args []string) error {
		if path != "" {
			fromFile, err := readConfig(c, path, arguments)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				extra = fromFile
			}
		}
		return check(c, append(args, extra...))
	}
	cmd.RunE = func(c *cobra.Command, args []string) error { return run(c, append(args, extra...)) }
}

// readConfig sets the flags that the command line does not, and returns the
// arguments.
func readConfig(cmd *cobra.Command, path, arguments string) (args []string, err error) {
	b, err := readSmall(path, cmd.InOrStdin(), maxConfig)
	if err != nil {
		return nil, err
	}
	body, err := parseYAML(path, b)
	if err != nil || body == nil {
		return nil, err
	}
	pairs, ok, err := yamlMap(path, body)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errAt(path, lineAt(body), "%s where keys were expected (want lines such as output: feed.pcapng.zst)", describeConfig(body))
	}
	for _, p := range pairs {
		if arguments != "" && p.key == arguments {
			if args, err = configList(path, p); err != nil {
				return nil, err
			}
			continue
		}
		if err := setFlag(cmd, path, p, arguments); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func describeConfig(n ast.Node) string {
	if text, kind := yamlValue(n); kind != yamlOther {
		return "\"" + oneLine(text) + "\""
	}
	return describeYAML(n)
}

// configList reads a value or a list of values.
func configList(path string, p yamlPair) (values []string, err error) {
	nodes := []ast.Node{p.value}
	if list, ok := p.value.(*ast.SequenceNode); ok {
		nodes = list.Values
	}
	for _, n := range nodes {
		text, kind := yamlValue(n)
		if kind == yamlOther || kind == yamlBool {
			return nil, errAt(path, lineAt(n), "%s: %s is no value for it", p.key, describeConfig(n))
		}
		values = append(values, text)
	}
	return values, nil
}

func setFlag(cmd *cobra.Command, path string, p yamlPair, arguments string) error {
	flags := cmd.Flags()
	f := flags.Lookup(p.key)
	if f == nil || f.Name == "help" || f.Name == "config" {
		return errAt(path, p.line, "%s has no flag --%s%s", cmd.Name(), oneLine(p.key), nearest(p.key, configKeys(flags, arguments)))
	}
	values, err := configList(path, p)
	_, several := f.Value.(pflag.SliceValue)
	_, isList := p.value.(*ast.SequenceNode)
	_, kind := yamlValue(p.value)
	switch {
	case f.Value.Type() == "bool":
		if kind != yamlBool {
			return errAt(path, p.line, "%s: %s is neither true nor false", p.key, describeConfig(p.value))
		}
		text, _ := yamlValue(p.value)
		values = []string{text}
	case err != nil:
		return err
	case isList && !several:
		return errAt(path, p.line, "%s: a list, and --%s takes one value", p.key, p.key)
	}
	if f.Changed {
		return nil // on the command line
	}
	for _, v := range values {
		if err := flags.Set(p.key, v); err != nil {
			return errAt(path, p.line, "%w", err)
		}
	}
	return nil
}

func configKeys(flags *pflag.FlagSet, arguments string) []string {
	var keys []string
	if arguments != "" {
		keys = append(keys, arguments)
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "config" {
			keys = append(keys, f.Name)
		}
	})
	return keys
}
