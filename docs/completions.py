# SPDX-License-Identifier: Apache-2.0
"""Writes the completions of bash, zsh and fish from the commands' own options: `make completions`.

The files are static: pressing TAB starts no Python. What is completed is decided by a parameter's
type: a choice by its words, a path by files or folders, and what is called NAME by the guests that
are there (`GUESTS`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from daemons.runtime.subcommands import subcommands
from docs.manpages import PAGES

FOLDER: Final = Path(__file__).resolve().parents[1] / "completions"

GUESTS: Final = ("$dir/state/etc/guests.d/*.toml", "/etc/vtpm/guests.d/*.toml")
"""Where guests have a file of their name; $dir is the --dir of the line, or its default."""

_FOLDERS: Final = "@folders"
_FILES: Final = "@files"
_GUESTS: Final = "@guests"
_NOTHING: Final = "@nothing"
_HEAD: Final = (
    "# SPDX-License-Identifier: Apache-2.0",
    "# Written by docs/completions.py from the options of the command.",
)


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        names: such as "--help".
        help: one line.
        values: of its value: words, or one of the marks above; None if it is a flag.
        is_repeated: may be given more than once.
    """

    names: tuple[str, ...]
    help: str
    values: str | None
    is_repeated: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A command.

    Attributes:
        path: its words: ("vtpmctl", "guest", "reset").
        help: one line.
        options: its own.
        arguments: values of each argument, as those of an option.
        below: its subcommands.
    """

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...]
    below: tuple[Node, ...]

    def all(self) -> Iterator[Node]:
        """Give this command and all below it."""
        yield self
        for node in self.below:
            yield from node.all()


def tree(command: click.Command, path: tuple[str, ...]) -> Node:
    """Return what is to be known of a command."""
    context = click.Context(command, info_name=path[-1], **command.context_settings)
    options, arguments = [], []
    for parameter in command.get_params(context):
        metavar = parameter.make_metavar(context)
        if isinstance(parameter, click.Option) and not parameter.hidden:
            takes_none = parameter.is_flag or parameter.count
            options.append(
                Option(
                    names=(*parameter.opts, *parameter.secondary_opts),
                    help=_one_line(parameter.help or ""),
                    values=None if takes_none else _values(parameter.type, metavar),
                    is_repeated=parameter.multiple,
                )
            )
        elif isinstance(parameter, click.Argument):
            arguments.append(_values(parameter.type, metavar))
    return Node(
        path=path,
        help=_one_line(command.get_short_help_str(limit=80)),
        options=tuple(options),
        arguments=tuple(arguments),
        below=tuple([tree(below, (*path, name)) for name, below in subcommands(command).items()]),
    )


def _values(kind: click.ParamType[Any], metavar: str) -> str:
    if isinstance(kind, click.Choice):
        return " ".join([str(choice) for choice in kind.choices])
    if isinstance(kind, click.Path):
        return _FILES if kind.file_okay else _FOLDERS
    return _GUESTS if metavar == "NAME" else _NOTHING


def _one_line(text: str) -> str:
    """Return the first sentence, in letters that no shell takes for its own."""
    line = " ".join(text.replace("\b", "").split())
    sentence = line.partition(". ")[0].partition(": ")[0].partition("  [")[0].rstrip(".")
    return "".join(letter for letter in sentence if letter not in "'\"`$\\[]:")


# --- bash -----------------------------------------------------------------------------------------

_BASH_GUESTS: Final = """\
_{name}_guests() {{
    local dir=$1 path guest
    for path in {patterns}; do
        guest=${{path##*/}}
        [[ -e $path ]] && printf '%s\\n' "${{guest%.*}}"
    done
}}
"""

_BASH: Final = """\
_{name}() {{
    local -A commands=(
{commands}
    )
    local -A options=(
{options}
    )
    local -A values=(
{values}
    )
    local current=${{COMP_WORDS[COMP_CWORD]}} path={name} wanted= option= dir= word kind
    local -i index place=0
    [[ $current == '=' ]] && current=
    # The words before the cursor: subcommands lead down, an option may want the next word.
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        if [[ $word == '=' && $wanted ]]; then
            continue
        elif [[ $wanted ]]; then
            [[ $option == --dir ]] && dir=${{word/#\\~/$HOME}}
            wanted=
        elif [[ $word == -* ]]; then
            option=$word wanted=${{values["$path $word"]-}}
        elif [[ " ${{commands[$path]-}} " == *" $word "* ]]; then
            path+=" $word"
        else
            place+=1
        fi
    done
    COMPREPLY=()
    if [[ $wanted ]]; then
        kind=$wanted
    elif [[ $current == -* ]]; then
        kind=${{options[$path]-}}
    elif [[ ${{commands[$path]-}} ]]; then
        kind=${{commands[$path]}}
    else
        kind=${{values["$path $place"]-@nothing}}
    fi
    case $kind in
        @folders)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
        @files)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        @guests)
            : "${{dir:=${{XDG_STATE_HOME:-$HOME/.local/state}}/vtpm}}"
            mapfile -t COMPREPLY < <(compgen -W "$(_{name}_guests "$dir")" -- "$current") ;;
        @nothing) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}}
complete -F _{name} {name}
"""


def bash(root: Node) -> str:
    """Return the completion for bash 4 or later."""
    name = root.path[0]
    commands, options, values = [], [], []
    for node in root.all():
        path = " ".join(node.path)
        if node.below:
            commands.append(_bash_row(path, " ".join([one.path[-1] for one in node.below])))
        names = [one for option in node.options for one in option.names]
        options.append(_bash_row(path, " ".join(names)))
        for option in node.options:
            if option.values is not None:
                values += [_bash_row(f"{path} {one}", option.values) for one in option.names]
        for place, kind in enumerate(node.arguments):
            values.append(_bash_row(f"{path} {place}", kind))
    patterns = " ".join([_bash_pattern(pattern) for pattern in GUESTS])
    return "\n".join(
        [
            *_HEAD,
            "",
            _BASH_GUESTS.format(name=name, patterns=patterns),
            _BASH.format(
                name=name,
                commands="\n".join(commands),
                options="\n".join(options),
                values="\n".join(values),
            ),
        ]
    )


def _bash_row(key: str, value: str) -> str:
    return f'        ["{key}"]="{value}"'


def _bash_pattern(pattern: str) -> str:
    return pattern.replace("$dir/", '"$dir"/')


# --- zsh ------------------------------------------------------------------------------------------

_ZSH_GUESTS: Final = """\
_{name}_guests() {{
    local dir=${{opt_args[--dir]:-${{XDG_STATE_HOME:-$HOME/.local/state}}/vtpm}}
    local -a guests
    guests=({patterns})
    guests=(${{guests:t:r}})
    compadd -a guests
}}
"""

_ZSH_GROUP: Final = """\
    case $state in
        command)
            local -a commands
            commands=(
{described}
            )
            _describe command commands ;;
        rest)
            case $line[1] in
{cases}
            esac ;;
    esac"""

_ZSH_ACTIONS: Final = {
    _FOLDERS: "folder:_files -/",
    _FILES: "file:_files",
    _NOTHING: "value: ",
}


def zsh(root: Node) -> str:
    """Return the completion for zsh."""
    name = root.path[0]
    patterns = " ".join([f"{pattern}(N)" for pattern in GUESTS])
    functions = [_zsh_function(node, name) for node in root.all()]
    lines = [f"#compdef {name}", *_HEAD, "", _ZSH_GUESTS.format(name=name, patterns=patterns)]
    return "\n".join([*lines, *functions, f'_{name} "$@"', ""])


def _zsh_function(node: Node, name: str) -> str:
    specs = [_zsh_option(option, name) for option in node.options]
    if node.below:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    for place, kind in enumerate(node.arguments, start=1):
        specs.append(f"'{place}:{_zsh_action(kind, name)}'")
    lines = [f"_{'_'.join(node.path)}() {{".replace("-", "_")]
    if node.below:
        lines += ["    local curcontext=$curcontext state line", "    typeset -A opt_args"]
    flags = " -C" if node.below else ""
    lines.append(f"    _arguments{flags} \\\n        " + " \\\n        ".join(specs))
    if node.below:
        described = [f"                '{one.path[-1]}:{one.help}'" for one in node.below]
        cases = [
            f"                {one.path[-1]}) _{'_'.join(one.path).replace('-', '_')} ;;"
            for one in node.below
        ]
        lines.append(_ZSH_GROUP.format(described="\n".join(described), cases="\n".join(cases)))
    return "\n".join([*lines, "}", ""])


def _zsh_option(option: Option, name: str) -> str:
    star = "*" if option.is_repeated else ""
    action = "" if option.values is None else f":{_zsh_action(option.values, name)}"
    value = "" if option.values is None else "="
    others = f"({' '.join(option.names)})" if len(option.names) > 1 and not star else ""
    specs = [f"'{others}{star}{one}{value}[{option.help}]{action}'" for one in option.names]
    return " ".join(specs)


def _zsh_action(kind: str, name: str) -> str:
    if kind == _GUESTS:
        return f"guest:_{name}_guests"
    return _ZSH_ACTIONS.get(kind) or f"value:({kind})"


# --- fish -----------------------------------------------------------------------------------------

_FISH_GUESTS: Final = """\
function __{name}_guests
    set -l dir (string replace -rf '.*--dir[= ](\\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in {patterns}
        string replace -r '.*/' '' -- $path | string replace -r '\\.[^.]*$' ''
    end
end
"""


def fish(root: Node) -> str:
    """Return the completion for fish."""
    name = root.path[0]
    patterns = " ".join(GUESTS)
    lines = [*_HEAD, "", _FISH_GUESTS.format(name=name, patterns=patterns)]
    lines.append(f"complete -c {name} -f")
    for node in root.all():
        start = f"complete -c {name}{_fish_condition(node)}"
        lines += [f"{start} -a {one.path[-1]} -d {shlex.quote(one.help)}" for one in node.below]
        lines += [f"{start}{_fish_values(kind, name)}" for kind in node.arguments]
        lines += [f"{start}{_fish_option(option, name)}" for option in node.options]
    return "\n".join([*lines, ""])


def _fish_option(option: Option, name: str) -> str:
    names = "".join([_fish_name(one) for one in option.names])
    values = "" if option.values is None else _fish_values(option.values, name)
    return f"{names}{values}" + (f" -d {shlex.quote(option.help)}" if option.help else "")


def _fish_condition(node: Node) -> str:
    """Return when a command's own words are completed: behind its name and no other's below it."""
    tests = [f"__fish_seen_subcommand_from {word}" for word in node.path[1:]]
    if node.below:
        words = " ".join([one.path[-1] for one in node.below])
        tests.append(f"not __fish_seen_subcommand_from {words}")
    return f" -n '{'; and '.join(tests)}'" if tests else ""


def _fish_name(option: str) -> str:
    return f" -l {option[2:]}" if option.startswith("--") else f" -s {option[1:]}"


def _fish_values(kind: str, name: str) -> str:
    match kind:
        case "@folders":
            return " -x -a '(__fish_complete_directories)'"
        case "@files":
            return " -r -F"
        case "@guests":
            return f" -x -a '(__{name}_guests)'"
        case "@nothing":
            return " -x"
        case _:
            return f" -x -a '{kind}'"


def files() -> dict[str, str]:
    """Return the content of every file by its name."""
    found = {}
    for name, page in PAGES.items():
        root = tree(page.command, (name,))
        found[f"{name}.bash"] = bash(root)
        found[f"_{name}"] = zsh(root)
        found[f"{name}.fish"] = fish(root)
    return found


def main(arguments: Sequence[str]) -> None:
    """Write all files."""
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(exist_ok=True)
    for name, content in files().items():
        (folder / name).write_text(content)


if __name__ == "__main__":
    main(sys.argv[1:])
