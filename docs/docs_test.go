// Package docs_test checks what no compiler sees in the documentation.
package docs_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// pages are the files people read, by their paths from the root of the repository.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	root := os.DirFS("..")
	read := func(name string) {
		text, err := fs.ReadFile(root, name)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(text)
	}
	top, err := fs.Glob(root, "*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range top {
		read(name)
	}
	err = fs.WalkDir(root, "docs", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".md") {
			read(name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	code = regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`\n]*`")
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

func TestLinksResolve(t *testing.T) {
	all := pages(t)
	links := 0
	for page, text := range all {
		for _, match := range link.FindAllStringSubmatch(code.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(match[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			links++
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(filepath.Join("..", file)); err != nil {
				t.Errorf("%s: %s leads nowhere", page, match[1])
				continue
			}
			if anchor != "" && !anchors(all[file])[anchor] {
				t.Errorf("%s: %s has no such heading", page, match[1])
			}
		}
	}
	if links < 20 {
		t.Errorf("only %d links were found", links)
	}
}

// anchors are the names that GitHub gives the headings of a page.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(regexp.MustCompile("(?ms)^```.*?^```").ReplaceAllString(text, "")) {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			found[strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
					return unicode.ToLower(r)
				}
				return -1
			}, strings.TrimSpace(heading))] = true
		}
	}
	return found
}

// What is to be pasted into IAM and the like.
func TestBlocksOfJSONAreJSON(t *testing.T) {
	blocks := 0
	for page, text := range pages(t) {
		for i, block := range strings.Split(text, "```json\n") {
			if i == 0 {
				continue
			}
			blocks++
			block, _, _ = strings.Cut(block, "```")
			var value any
			if err := json.Unmarshal([]byte(block), &value); err != nil {
				t.Errorf("%s: %v in\n%s", page, err, block)
			}
		}
	}
	if blocks == 0 {
		t.Error("there are no blocks of JSON")
	}
}
