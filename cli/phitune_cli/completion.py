"""Completion for shells, written from the parsers: what it offers is what the command takes. Pure."""

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    names: tuple[str, ...]
    """Such as -o and --output."""
    summary: str
    takes_value: bool
    values: tuple[str, ...] = ()
    """The only ones that it takes; empty: any."""


@dataclass(frozen=True)
class Node:
    """A command or subcommand."""

    path: tuple[str, ...]
    """Names of the subcommands that lead to it."""
    summary: str
    options: tuple[Option, ...]
    children: "tuple[Node, ...]" = field(default=())
    values: tuple[str, ...] = ()
    """What its first argument may be, where that is bounded."""

    def walk(self) -> "Iterator[Node]":
        """This one, and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree_of(parser: argparse.ArgumentParser, path: tuple[str, ...] = (), summary: str = "") -> Node:
    """The commands and options that a parser knows."""
    options, children, values = list[Option](), list[Node](), tuple[str, ...]()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}
            children += [
                tree_of(child, (*path, name), summaries[name]) for name, child in action.choices.items()
            ]
        elif action.option_strings:
            options.append(
                Option(tuple(action.option_strings), _summary(action), action.nargs != 0, _values(action))
            )
        elif not values:
            values = _values(action)
    return Node(path, summary, tuple(options), tuple(children), values)


def _values(action: argparse.Action) -> tuple[str, ...]:
    return tuple(str(choice) for choice in action.choices or ())


def _summary(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default}
    return text.partition(";")[0].partition(" (default")[0]


def bash(prog: str, top: Node) -> str:
    """A script to be sourced by bash."""
    return f"{_bash_function(prog, top)}complete -o default -F _{prog} {prog}\n"


def zsh(prog: str, top: Node) -> str:
    """A script to be sourced by zsh, which understands that of bash."""
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash(prog, top)}"


def kubectl(plugin: str, top: Node) -> str:
    """A program that kubectl's own completion asks, in whatever shell."""
    name = plugin.replace("-", "_")
    return f"""#!/usr/bin/env bash
{_bash_function(name, top)}\
COMP_WORDS=({plugin} "$@") COMP_CWORD=$# COMPREPLY=()
_{name}
[ ${{#COMPREPLY[@]}} -eq 0 ] && echo :0 && exit
printf '%s\\n' "${{COMPREPLY[@]}}" :4
"""


def fish(prog: str, top: Node) -> str:
    """A script to be sourced by fish."""
    return "\n".join(line for node in top.walk() for line in _fish_lines(prog, node)) + "\n"


def _fish_lines(prog: str, node: Node) -> Iterator[str]:
    where = _fish_condition(node)
    for child in node.children:
        yield _fish(prog, where, f"-f -a {child.path[-1]}", child.summary)
    if node.values:
        yield _fish(prog, where, f"-f -a {shlex.quote(' '.join(node.values))}", "")
    for option in node.options:
        names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
        value = "-r " if option.takes_value else ""
        value += f"-f -a {shlex.quote(' '.join(option.values))} " if option.values else ""
        yield _fish(prog, where, f"{value}{' '.join(names)}", option.summary)


def _fish(prog: str, where: str, what: str, summary: str) -> str:
    words = f" -d {shlex.quote(summary)}" if summary else ""
    return f"complete -c {prog} -n {shlex.quote(where)} {what}{words}"


def _fish_condition(node: Node) -> str:
    seen = [f"__fish_seen_subcommand_from {name}" for name in node.path]
    below = " ".join(child.path[-1] for child in node.children)
    return "; and ".join([*seen, *([f"not __fish_seen_subcommand_from {below}"] if below else [])]) or "true"


def _bash_function(name: str, top: Node) -> str:
    """Finds out which subcommand the words lead to, then what may stand at the cursor."""
    nodes = list(top.walk())
    paths = "|".join(f"'{_path(node)}'" for node in nodes if node.path)
    values = [
        f"    {'|'.join(shlex.quote(_path(node) + name) for name in option.names)}) "
        f"words={shlex.quote(' '.join(option.values))}; is_value=1 ;;"
        for node in nodes
        for option in node.options
        if option.takes_value
    ]
    newline = "\n"
    return f"""\
_{name}() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path= word words= is_value=
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$path$word/" in {paths}) path="$path$word/" ;; esac
  done
  case "$path${{COMP_WORDS[COMP_CWORD-1]}}" in
{newline.join(values)}
  esac
  [ -n "$is_value" ] || case "$path" in
{newline.join(_bash_choice(node) for node in nodes)}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
"""


def _bash_choice(node: Node) -> str:
    options, arguments = shlex.quote(" ".join(_option_names(node))), shlex.quote(" ".join(_arguments(node)))
    return f"    '{_path(node)}') case \"$current\" in -*) words={options} ;; *) words={arguments} ;; esac ;;"


def _path(node: Node) -> str:
    return "".join(f"{name}/" for name in node.path)


def _option_names(node: Node) -> list[str]:
    return [name for option in node.options for name in option.names]


def _arguments(node: Node) -> Sequence[str]:
    return [child.path[-1] for child in node.children] or node.values
