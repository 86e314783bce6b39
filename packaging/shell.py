#!/usr/bin/env python3
"""Man pages and completions for bash, zsh and fish, made of what the programs' own --help says.

Usage: shell.py BIN_DIR SHARE_DIR VERSION
"""

import pathlib
import re
import subprocess
import sys

PROGRAMS = ["fetch", "unpack", "thin", "registry", "orchestrate"]


class Page:
    """One --help: of a program, or of one of its commands."""

    def __init__(self, path, words):
        self.words = words
        text = subprocess.run([path, *words[1:], "--help"], capture_output=True, text=True, check=True).stdout
        self.sections = {}
        name = "Top"
        for line in text.splitlines():
            head = re.fullmatch(r"([A-Z][A-Za-z ]+):", line)
            if head:
                name = head[1]
            else:
                self.sections.setdefault(name, []).append(line)
        top = [line for line in self.sections["Top"] if line]
        self.usage = top[0].removeprefix("Usage: ")
        self.about = " ".join(top[1:])
        self.options = self.entries("Options")
        self.places = self.entries("Positional Arguments")
        self.commands = [Page(path, [*words, name]) for name, _ in self.entries("Commands")]

    def entries(self, section):
        """(name, meaning) pairs; what stands further in goes on with the line before."""
        found = []
        for line in self.sections.get(section, []):
            begins = re.match(r"  (-[^\s,]+(?:, \S+)*|\S+)(?: +(.*))?$", line)
            if begins and not line.startswith("   "):
                found.append([begins[1], begins[2] or ""])
            elif line.strip() and found:
                found[-1][1] = f"{found[-1][1]} {line.strip()}".strip()
        return [(name.replace("--help, help", "--help"), text) for name, text in found]

    def flags(self):
        return [flag for names, _ in self.options for flag in names.split(", ")]

    def takes_value(self, names):
        """Whether the usage line shows a value after the option."""
        last = re.escape(names.split(", ")[-1])
        first = re.escape(names.split(", ")[0])
        return re.search(rf"(?:{first}|{last}) <", self.usage) is not None


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in ".'" else text


def manual(page, version):
    name = page.words[0]
    out = [f'.TH {name.upper()} 1 "" "veneer {version}" "veneer"', ".SH NAME"]
    out.append(f"{name} \\- {roff(page.about.split('. ')[0].split(': ')[0].rstrip('.'))}")
    out += [".SH SYNOPSIS", roff(page.usage), ".SH DESCRIPTION", roff(page.about)]
    listed(out, "ARGUMENTS", page.places)
    listed(out, "OPTIONS", page.options)
    if page.commands:
        out.append(".SH COMMANDS")
        for command in every(page)[1:]:
            out += [f".SS {roff(' '.join(command.words[1:]))}", roff(command.about), ".PP", roff(command.usage)]
            for names, text in command.places + [o for o in command.options if o[0] != "--help"]:
                out += [".TP", f"\\fB{roff(names)}\\fR", roff(text)]
    listed(out, "EXIT STATUS", [tuple(line.strip().split(" ", 1)) for line in page.sections.get("Error codes", []) if line.strip()])
    for section in ["Examples", "Notes"]:
        lines = [line.strip() for line in page.sections.get(section, []) if line.strip()]
        if lines:
            out += [f".SH {section.upper()}", ".nf", *map(roff, lines), ".fi"]
    others = ", ".join(f"\\fB{other}\\fR(1)" for other in PROGRAMS if other != name)
    return "\n".join([*out, ".SH SEE ALSO", others]) + "\n"


def listed(out, title, entries):
    if entries:
        out.append(f".SH {title}")
    for names, text in entries:
        out += [".TP", f"\\fB{roff(names)}\\fR", roff(text)]


def every(page):
    return [page] + [below for command in page.commands for below in every(command)]


def bash(page):
    name = page.words[0]
    cases = []
    for one in every(page):
        words = [command.words[-1] for command in one.commands] + one.flags()
        if one is not page:
            words += page.flags()
        cases.append(f'    "{" ".join(one.words[1:])}") words="{" ".join(dict.fromkeys(words))}" ;;')
    commands = " ".join(sorted({"|".join(one.words[1:]).replace("|", " ") for one in every(page)[1:]}))
    paths = "|".join(f'"{" ".join(one.words[1:])}"' for one in every(page)[1:]) or '"-"'
    return f"""# bash completion for {name}; made of its --help ({commands and 'commands: ' + commands or 'no commands'})
_{name}() {{
  local word at="" words=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{at:+$at }}$word" in {paths}) at="${{at:+$at }}$word" ;; esac
  done
  case "$at" in
{chr(10).join(cases)}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _{name} {name}
"""


def quoted(text):
    return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", "\\:")


def zsh(page):
    name = page.words[0]
    out = [f"#compdef {name}", f"# made of {name} --help", f"_{name}() {{", "  local at='' word", "  for word in ${words[2,CURRENT-1]}; do"]
    paths = "|".join(f"'{' '.join(one.words[1:])}'" for one in every(page)[1:]) or "'-'"
    out += [f"    case \"${{at:+$at }}$word\" in {paths}) at=\"${{at:+$at }}$word\" ;; esac", "  done", "  local -a options commands", '  case "$at" in']
    for one in every(page):
        options = [f"'{flag}:{quoted(text)}'" for names, text in one.options for flag in names.split(", ")]
        commands = [f"'{command.words[-1]}:{quoted(command.about)}'" for command in one.commands]
        out.append(f"    '{' '.join(one.words[1:])}') options=({' '.join(options)}); commands=({' '.join(commands)}) ;;")
    out += ["  esac", "  _describe -t commands command commands", "  _describe -o options option options", "  _files", "}", f'_{name} "$@"', ""]
    return "\n".join(out)


def fish(page):
    name = page.words[0]
    out = [f"# made of {name} --help"]
    for one in every(page):
        above = one.words[1:]
        seen = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in above)
        below = " ".join(command.words[-1] for command in one.commands)
        fresh = f"not __fish_seen_subcommand_from {below}" if below else "true"
        for command in one.commands:
            about = command.about.replace("'", "\\'")
            out.append(f"complete -c {name} -n '{fresh}{seen}' -f -a {command.words[-1]} -d '{about}'")
        for names, text in one.options:
            flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in names.split(", "))
            value = " -r" if one.takes_value(names) else ""
            meaning = text.replace("'", "\\'")
            out.append(f"complete -c {name} -n 'true{seen}' {flags}{value} -d '{meaning}'")
    return "\n".join(out) + "\n"


def main():
    programs, share, version = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    for name in PROGRAMS:
        page = Page(programs / name, [name])
        files = {
            f"man/man1/{name}.1": manual(page, version),
            f"bash-completion/completions/{name}": bash(page),
            f"zsh/vendor-completions/_{name}": zsh(page),
            f"fish/vendor_completions.d/{name}.fish": fish(page),
        }
        for path, text in files.items():
            (share / path).parent.mkdir(parents=True, exist_ok=True)
            (share / path).write_text(text)


main()
