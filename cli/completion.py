"""`onnxprune completion`: a script that lets the shell complete commands, options and their values."""

from __future__ import annotations

from argparse import Namespace

from onnxprune.cli.arguments import Commands, command, finished
from onnxprune.cli.grammar import grammar
from onnxprune.cli.shells import SHELLS
from onnxprune.cli.talk import Talk

_EXAMPLES = """\
examples:
  eval "$(onnxprune completion bash)"             in ~/.bashrc
  eval "$(onnxprune completion zsh)"              in ~/.zshrc, after compinit
  onnxprune completion fish > ~/.config/fish/completions/onnxprune.fish
"""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "completion",
        "SHELL",
        "print a script with which the shell completes all of this",
        "Print a script for bash, zsh or fish that completes commands, options, criteria and files. It holds all that "
        "it needs: completing starts no Python. Print it anew after an update.",
        _EXAMPLES,
        ratio=False,
    )
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SHELLS), help=f"one of {', '.join(SHELLS)}")
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    from onnxprune.cli import parser  # which holds this command, too

    script = SHELLS[args.shell](grammar(parser()))
    Talk.of(args).verbatim({"command": "completion", "shell": args.shell, "script": script}, script)
    return 0
