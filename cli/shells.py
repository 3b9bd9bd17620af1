"""Completion scripts, one for each shell: the whole grammar written out, so that no key press starts Python.

All three find out first which command the words so far lead to (`at`), then offer what that command takes:

    onnxprune prune model.onnx --criterion <Tab>      at = " prune", the word before = "--criterion"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnxprune.cli.grammar import Argument, Node


def bash(root: Node) -> str:
    """For bash 3.2 and later."""
    values, offers = [], []
    for node in root.all():
        for argument in node.arguments:
            if argument.flags and argument.takes != "nothing":
                labels = "|".join(f'"{_at(node)}:{flag}"' for flag in argument.flags)
                values.append(f"        {labels}) {_bash_value(argument)} return ;;")
        words = " ".join([*(child.path[-1] for child in node.below), *_positional_words(node)])
        flags = " ".join(flag for argument in node.arguments for flag in argument.flags)
        offers.append(f'        "{_at(node)}") words="{words}" flags="{flags}" files={int(_takes_files(node))} ;;')
    return _filled(
        """\
# onnxprune's completion for bash; made by `onnxprune completion bash`
_onnxprune() {
    local at="" word words="" flags="" files=0 i
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"
    COMPREPLY=()
    # bash splits --option=value into three words
    if [ "$cur" = "=" ]; then cur=""
    elif [ "$prev" = "=" ] && [ "$COMP_CWORD" -gt 2 ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        case "$at $word" in
            @PATHS@) at="$at $word" ;;
        esac
    done
    case "$at:$prev" in
@VALUES@
    esac
    case "$at" in
@OFFERS@
    esac
    case "$cur" in
        -*) COMPREPLY=($(compgen -W "$flags" -- "$cur")) ;;
        *)
            COMPREPLY=($(compgen -W "$words" -- "$cur"))
            if [ "$files" = 1 ]; then _onnxprune_files "$cur"; fi
            ;;
    esac
}
_onnxprune_files() {
    compopt -o filenames 2>/dev/null
    local IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$1"))
}
complete -F _onnxprune onnxprune
""",
        PATHS="|".join(f'"{_at(node)}"' for node in root.all() if node.path),
        VALUES="\n".join(values),
        OFFERS="\n".join(offers),
    )


def zsh(root: Node) -> str:
    """For zsh 5; to be evaluated, or kept as `_onnxprune` in a folder of $fpath."""
    cases = []
    for node in root.all():
        lines = []
        if node.below:
            listed = " ".join(_quoted(f"{child.path[-1]}:{_zsh_text(child.summary)}") for child in node.below)
            lines += [f"local -a commands=({listed})", "_describe -t commands command commands"]
        specs = [spec for argument in node.arguments for spec in _zsh_specs(argument)]
        lines.append(" ".join(["_arguments", *specs]))
        body = "\n".join(f"            {line}" for line in lines)
        cases.append(f'        ("{_at(node)}")\n{body}\n            ;;')
    return _filled(
        """\
#compdef onnxprune
# onnxprune's completion for zsh; made by `onnxprune completion zsh`
_onnxprune() {
    local at="" word
    for word in "${(@)words[2,CURRENT-1]}"; do
        case "$at $word" in
            (@PATHS@) at="$at $word"; shift words; (( CURRENT-- )) ;;
        esac
    done
    case "$at" in
@CASES@
    esac
}
if [ "$funcstack[1]" = "_onnxprune" ]; then _onnxprune "$@"; else compdef _onnxprune onnxprune; fi
""",
        PATHS="|".join(f'"{_at(node)}"' for node in root.all() if node.path),
        CASES="\n".join(cases),
    )


def fish(root: Node) -> str:
    """For fish 3."""
    lines = []
    for node in root.all():
        here = f"complete -c onnxprune -n '__onnxprune_at \"{_at(node)}\"'"
        lines += [f"{here} -a {child.path[-1]} -d {_quoted(child.summary)}" for child in node.below]
        if node.path and _takes_files(node):
            lines.append(f"{here} -F")
        words = _positional_words(node)
        if words:
            lines.append(f"{here} -a {_quoted(' '.join(words))}")
        lines += [f"{here} {_fish_option(argument)}" for argument in node.arguments if argument.flags]
    return _filled(
        """\
# onnxprune's completion for fish; made by `onnxprune completion fish`
function __onnxprune_at
    set -l at ""
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case @PATHS@
                set at "$at $word"
        end
    end
    test "$at" = "$argv[1]"
end
complete -c onnxprune -f
@LINES@
""",
        PATHS=" ".join(f'"{_at(node)}"' for node in root.all() if node.path),
        LINES="\n".join(lines),
    )


SHELLS: dict[str, Callable[[Node], str]] = {"bash": bash, "fish": fish, "zsh": zsh}


def _at(node: Node) -> str:
    return "".join(f" {name}" for name in node.path)


def _positional_words(node: Node) -> Iterable[str]:
    return [word for argument in node.arguments if not argument.flags for word in argument.words]


def _takes_files(node: Node) -> bool:
    return any(argument.takes == "file" for argument in node.arguments if not argument.flags)


def _bash_value(argument: Argument) -> str:
    if argument.takes == "words":
        return f'COMPREPLY=($(compgen -W "{" ".join(argument.words)}" -- "$cur"));'
    return '_onnxprune_files "$cur";' if argument.takes == "file" else ""


def _zsh_specs(argument: Argument) -> list[str]:
    action = f"({' '.join(argument.words)})" if argument.words else "_files" if argument.takes == "file" else " "
    if not argument.flags:
        return [_quoted(f"*:{argument.takes}:{action}")]
    value = "" if argument.takes == "nothing" else f":{argument.takes}:{action}"
    equals = "=" if value and argument.flags[0].startswith("--") else ""
    return [
        _quoted(f"*{flag}{equals if flag.startswith('--') else ''}[{_zsh_text(argument.summary)}]{value}")
        for flag in argument.flags
    ]


def _zsh_text(text: str) -> str:
    """Without what ends a description."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "\\[]:"})


def _fish_option(argument: Argument) -> str:
    names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in argument.flags)
    value = {"nothing": "", "file": " -r -F", "text": " -x"}.get(argument.takes)
    if value is None:
        value = f" -x -a {_quoted(' '.join(argument.words))}"
    return f"{names}{value} -d {_quoted(argument.summary)}"


def _quoted(text: str) -> str:
    """One word, in all three shells: what stands between single quotes, and a single quote, is itself."""
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, **parts: str) -> str:
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template
