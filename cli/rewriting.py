"""What `unfold` and `fold` have in common: a model that computes the same appears once that has been seen."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnxprune
from onnxprune.cli.files import distinct
from onnxprune.cli.progress import Activity
from onnxprune.cli.source import Source, opened
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.execution.inputs import Feeds
from onnxprune.files import store
from onnxprune.files.model import Model
from onnxprune.files.replacing import check_writable
from onnxprune.rewrites.agreement import difference
from onnxprune.rewrites.rewriting import Rewritten
from onnxprune.text.figures import noise, plural

Rewrite = Callable[[Model, Source, Activity], tuple[Rewritten, Iterable[Feeds]]]
"""From the normalised model to the other one, and what to compare them on."""


def rewrite(args: Namespace, suffix: str, doing: str, verb: str, change: Rewrite) -> int:
    """Read, change, compare, write, tell."""
    talk = Talk.of(args)
    path = Path(args.model)
    output = Path(args.output) if args.output else Path(f"{path.stem}-{suffix}.onnx")
    check_writable(output)
    distinct([path, output])
    with Activity(talk) as activity:
        activity.step("reading")
        source = opened(path, args.dim)
        store.check_target(source.model, output)
        model = onnxprune.normalize(source.model)
        activity.step(doing)
        found, feeds = change(model, source, activity)
        activity.step("comparing the outputs")
        error = difference(model, found.model, feeds, threads=args.threads)
        activity.step("writing")
        onnxprune.save(found.model, output)
    talk.note(f"wrote {output}")
    document: dict[str, Any] = {"model": path, "output": output, "done": found.done, "left": found.left}
    talk.result({"command": args.command, **document, "error": error}, _parts(found, error, verb), wrote=[output])
    return 0


def _parts(found: Rewritten, error: float, verb: str) -> list[Part]:
    rows = [[name, why] for name, why in found.left.items()]
    left: list[Part] = [Grid((Column("Left as it is", name=True), Column("Why", name=True)), rows), ""] if rows else []
    count = plural(len(found.done), "BatchNormalization node")
    return [*left, f"{count} {verb}; outputs equal within {noise(error)}."]
