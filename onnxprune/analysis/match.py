"""What a pattern names: a group by its own name, by a node that makes its channels, or by an initializer or slot.

An initializer names the group of the channels that it makes, not of those that it reads: `conv2.weight` is conv2's
group, and conv1's, whose channels it takes in, is named by the slot `conv2.weight:1`. Patterns are shell globs, and a
name that holds `*` or `[` itself also matches as it stands. A pattern that names nothing is an error: to ignore a typo
would prune what was meant to be spared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from onnxprune.analysis.coupling import Group
from onnxprune.errors import UserError
from onnxprune.text.kinds import is_number
from onnxprune.text.names import suggest


def names_of(group: Group) -> tuple[str, ...]:
    """Everything a pattern may call a group."""
    own = [slot.tensor for slot in group.weights if slot.role != "in"]
    return tuple(dict.fromkeys([group.name, *group.nodes, *own, *(str(slot) for slot in group.weights)]))


def choose(
    groups: Sequence[Group],
    include: Sequence[str],
    exclude: Sequence[str],
    include_ops: Sequence[str],
    exclude_ops: Sequence[str],
) -> set[str]:
    """Names of the groups that the four filters leave."""
    chosen = {group.name for group in groups}
    if include:
        chosen &= _named(groups, include, names_of, "include")
    if include_ops:
        chosen &= _named(groups, include_ops, ops_of, "include_ops")
    return chosen - _named(groups, exclude, names_of, "exclude") - _named(groups, exclude_ops, ops_of, "exclude_ops")


def ratios_by_group(groups: Sequence[Group], ratios: Mapping[str, float]) -> dict[str, float]:
    """The ratio of each group that has one of its own."""
    exact = {group.name for group in groups}
    found: dict[str, float] = {}
    # Exact names last, so that they beat every pattern wherever they stand.
    for pattern in sorted(ratios, key=exact.__contains__):
        ratio = ratios[pattern]
        if not (is_number(ratio) and 0 <= ratio < 1):
            raise UserError(f"the ratio of group {pattern!r} must be 0 or more and less than 1, not {ratio!r}")
        named = {pattern} if pattern in exact else _named(groups, (pattern,), names_of, "ratios")
        found |= dict.fromkeys(named, ratio)
    return found


def ops_of(group: Group) -> tuple[str, ...]:
    """Types of the operators that make or change its channels; those that only read them are other groups' makers."""
    return tuple(dict.fromkeys(slot.op for slot in group.weights if slot.role != "in" and slot.op)) or group.ops


def _named(
    groups: Sequence[Group], patterns: Iterable[str], names: Callable[[Group], tuple[str, ...]], option: str
) -> set[str]:
    if isinstance(patterns, str):  # a str is a sequence of str too, and each letter would be a pattern
        raise UserError(f"{option} takes a list of patterns, not one string: write [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        matching = {group.name for group in groups if any(_matches(name, pattern) for name in names(group))}
        if not matching:
            known = (name for group in groups for name in names(group))
            raise UserError(f"{option}: no prunable group matches {pattern!r}{suggest(pattern, known)}")
        found |= matching
    return found


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def chosen_names(names: Sequence[str], patterns: Iterable[str], option: str) -> set[str]:
    """The names that the patterns match; a pattern that matches none is an error."""
    if isinstance(patterns, str):
        raise UserError(f"{option} takes a list of patterns, not one string: write [{patterns!r}]")
    found: set[str] = set()
    for pattern in patterns:
        matching = {name for name in names if _matches(name, pattern)}
        if not matching:
            raise UserError(f"{option}: no weight matches {pattern!r}{suggest(pattern, names)}")
        found |= matching
    return found
