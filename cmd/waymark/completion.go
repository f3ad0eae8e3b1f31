// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

const completionHelp = `usage: waymark completion bash|zsh

Prints a completion script: commands, and each command's flags as its --help
lists them.

examples:
  source <(waymark completion bash)
  waymark completion bash > /etc/bash_completion.d/waymark
  waymark completion zsh > "${fpath[1]}/_waymark"

`

// The scripts ask the binary itself, so they never go stale.
const bashCompletion = `_waymark() {
	local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
	if [ "$COMP_CWORD" = 1 ]; then
		COMPREPLY=($(compgen -W "%s" -- "$word"))
	elif [[ $word == -* ]]; then
		COMPREPLY=($(compgen -W "$(waymark "$command" --help 2>/dev/null | grep -oE -- '--[a-z-]+' | sort -u)" -- "$word"))
	else
		COMPREPLY=($(compgen -f -- "$word"))
	fi
}
complete -o filenames -F _waymark waymark
`

const zshCompletion = `#compdef waymark
_waymark() {
	if (( CURRENT == 2 )); then
		compadd %s
	elif [[ $words[CURRENT] == -* ]]; then
		compadd -- $(waymark $words[2] --help 2>/dev/null | grep -oE -- '--[a-z-]+' | sort -u)
	else
		_files
	fi
}
compdef _waymark waymark
`

func runCompletion(args []string) error {
	fs := newFlags("completion", completionHelp)
	if err := parseFlags(fs, args, 1); err != nil {
		return err
	}
	var names []string
	for _, c := range commands() {
		if !c.hidden {
			names = append(names, c.name)
		}
	}
	switch fs.Arg(0) {
	case "bash":
		fmt.Printf(bashCompletion, strings.Join(names, " "))
	case "zsh":
		fmt.Printf(zshCompletion, strings.Join(names, " "))
	case "":
		return errors.New("completion needs a shell: bash or zsh")
	default:
		return fmt.Errorf("completion for %q: choose bash or zsh", fs.Arg(0))
	}
	return nil
}

const manHelp = `usage: waymark man

Prints the manual page: the commands and each one's help.

examples:
  waymark man | man -l -
  waymark man > /usr/local/share/man/man1/waymark.1
  waymark man | groff -man -Thtml > waymark.html

`

// runMan prints the manual page, made of what --help prints: written once.
func runMan(args []string) error {
	fs := newFlags("man", manHelp)
	if err := parseFlags(fs, args, 0); err != nil {
		return err
	}
	page := &roff{}
	page.line(`.TH WAYMARK 1 "" "waymark %s"`, version)
	page.line(".SH NAME\nwaymark \\- follow packets through namespaces and say where they died")
	page.line(".SH SYNOPSIS\n.B waymark\n.I COMMAND\n[flags] [FILTER...]")
	page.line(".SH COMMANDS")
	for _, c := range commands() {
		if c.hidden {
			continue
		}
		page.line(".TP\n.B %s\n%s", c.name, escape(c.brief))
	}
	for _, c := range commands() {
		if c.help == "" {
			continue
		}
		page.line(".SH \"WAYMARK %s\"\n.nf", strings.ToUpper(c.name))
		page.line("%s", escape(strings.TrimRight(c.help, "\n")))
		page.line(".fi")
	}
	page.line(`.SH "EXIT STATUS"
.TP
.B 0
fine
.TP
.B 1
a problem was found where the command looks for one
.TP
.B 2
wrong usage or bad input
.TP
.B 3
not permitted, or not supported by this machine`)
	_, err := os.Stdout.WriteString(page.String())
	return err
}

// roff is a manual page being written.
type roff struct{ strings.Builder }

func (r *roff) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

// escape keeps text from being read as roff requests (groff_man(7)).
func escape(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
