package report

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
)

//go:embed page/page.html page/*.js page/*.css uplot/uPlot.iife.min.js uplot/uPlot.min.css uplot/LICENSE
var files embed.FS

// scripts and styles in the order in which they stand on the page.
var (
	scripts = []string{"text.js", "cells.js", "view.js", "chart.js", "lanes.js", "tables.js", "page.js", "recording.js", "comparison.js", "replay.js", "main.js"}
	styles  = []string{"uplot/uPlot.min.css", "page/page.css"}
)

// assets are what is the same on every page.
type assets struct {
	page           *template.Template
	script, uplot  template.JS
	style          template.CSS
	policy, notice string
}

var load = sync.OnceValue(func() assets {
	read := func(name string) string {
		b, err := files.ReadFile(name)
		if err != nil {
			panic(err) // it is in the program
		}
		return strings.TrimSpace(string(b))
	}
	var a assets
	a.page = template.Must(template.New("page").Parse(read("page/page.html")))
	a.notice = read("uplot/LICENSE")
	a.uplot = template.JS("/*\n" + a.notice + "\n*/\n" + read("uplot/uPlot.iife.min.js"))
	var b strings.Builder
	b.WriteString("\"use strict\";\n(() => {\n")
	for _, name := range scripts {
		b.WriteString(read("page/"+name) + "\n\n")
	}
	b.WriteString("})();")
	a.script = template.JS(b.String())
	b.Reset()
	for _, name := range styles {
		b.WriteString(read(name) + "\n")
	}
	a.style = template.CSS(b.String())
	// Nothing is fetched and nothing runs but what is on the page: a name from a file that
	// got into it as markup could do nothing.
	a.policy = fmt.Sprintf("default-src 'none'; script-src %s %s; style-src %s; img-src data:; base-uri 'none'; form-action 'none'",
		hash(string(a.uplot)), hash(string(a.script)), hash(string(a.style)))
	return a
})

// hash is how a Content-Security-Policy names a text.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// WriteJSON writes the document on one line.
func (d *Document) WriteJSON(w io.Writer) error { return json.NewEncoder(w).Encode(d) }

// WriteHTML writes the page.
func (d *Document) WriteHTML(w io.Writer) error {
	a := load()
	var data bytes.Buffer
	if err := d.WriteJSON(&data); err != nil { // with <, > and & escaped
		return err
	}
	return a.page.Execute(w, map[string]any{
		"D": d, "Policy": a.policy, "Style": a.style, "UPlot": a.uplot, "Script": a.script, "Data": template.JS(bytes.TrimSpace(data.Bytes())),
	})
}
