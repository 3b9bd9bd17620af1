"""`onnxprune profile`: where the time goes, by kernel and by group, and what a channel of each group costs."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from onnxprune.cli import source
from onnxprune.cli.arguments import Commands, add_analysis, add_dims, add_model, add_threads, command, finished
from onnxprune.cli.progress import Activity, Narrator
from onnxprune.cli.tables import Column, Grid, Part
from onnxprune.cli.talk import Talk
from onnxprune.passes import Analyze, Normalize
from onnxprune.pipeline.manager import Pass, PassManager
from onnxprune.targets.profile import Profile, profile
from onnxprune.text.figures import bindings, count, milliseconds, percent, plural

_EXAMPLES = """\
examples:
  onnxprune profile model.onnx
  onnxprune profile model.onnx --threads 4 --dim batch=8 -v
"""

_DOING = {
    "widths": "timing small layers",
    "kernels": "timing the kernels at a dozen widths",
    "whole": "timing the whole model",
}
_ADDED = re.compile(r"(_output_0)?(_nchwc)?(_token_\d+)?$")
"""What exporters and onnxruntime put behind the name of a node; the operator stands beside it anyway."""
MOST = 15
"""Kernels that are listed without -v."""


def add(commands: Commands) -> None:
    """The command's arguments."""
    parser = command(
        commands,
        "profile",
        "[MODEL]",
        "show where the time goes, and what a channel of each group costs",
        "Run the model in onnxruntime's profiler, whole and at a dozen pruned widths, and show its kernels, the "
        "slowest first, and what one unit of each group costs in time, work and weights. The measurements are kept, "
        "for `prune --normalize latency`.",
        _EXAMPLES,
    )
    add_model(parser)
    add_analysis(parser)
    add_dims(parser)
    add_threads(parser)
    finished(parser, run)


def run(args: Namespace) -> int:
    """The command."""
    talk = Talk.of(args)
    path = Path(args.model) if args.model else source.default_path()
    with Activity(talk) as activity:

        def progress(stage: str, part: float) -> None:
            activity.step(_DOING[stage])
            activity.part(part)

        activity.step("reading")
        given = source.opened(path, args.dim)
        steps: list[Pass] = [Normalize(), Analyze(args.allow_inexact, args.attention)]
        state = PassManager(steps, [Narrator(activity, talk)]).run(given.model)
        assert state.coupling is not None
        found = profile(state.model, state.coupling, threads=args.threads, dims=given.dims, on_progress=progress)
    for note in found.notes:
        talk.note(f"note: {note}")
    talk.result({"command": "profile", "model": path, **found.to_dict()}, _parts(found, verbose=talk.verbose))
    return 0


def _parts(found: Profile, *, verbose: bool) -> list[Part]:
    total = sum(kernel.microseconds for kernel in found.kernels) or 1.0
    return [*_heading(found, total), "", *_kernels(found, total, verbose=verbose), "", *_groups(found)]


def _heading(found: Profile, total: float) -> list[Part]:
    threads = plural(found.threads, "thread") if found.threads else "as many threads as onnxruntime likes"
    at = f", {bindings(found.dims)}" if found.dims else ""
    whole, kernels = milliseconds(found.milliseconds), plural(len(found.kernels), "kernel")
    conv, matmul = found.blocks["conv"], found.blocks["matmul"]
    return [
        f"{whole} a run, {milliseconds(total / 1e3)} of it in {kernels} ({threads}{at}).",
        f"This machine likes multiples of {conv} channels in convolutions, of {matmul} in matrix products.",
    ]


def _kernels(found: Profile, total: float, *, verbose: bool) -> list[Part]:
    slowest = sorted(found.kernels, key=lambda kernel: -kernel.microseconds)
    shown = slowest if verbose else slowest[:MOST]
    columns = [Column("Kernel", name=True), Column("Operator", name=True), Column("Time"), Column("Share")]
    columns += [Column("MACs"), Column("MACs/s")]
    rows = [
        [
            _ADDED.sub("", kernel.name) or kernel.name,
            kernel.op,
            milliseconds(kernel.microseconds / 1e3),
            percent(kernel.microseconds / total),
            count(kernel.macs) if kernel.macs else "",
            count(kernel.macs / kernel.microseconds * 1e6) if kernel.macs and kernel.microseconds else "",
        ]
        for kernel in shown
    ]
    rest = slowest[len(shown) :]
    parts: list[Part] = [Grid(columns, rows)]
    if rest:
        share = percent(sum(kernel.microseconds for kernel in rest) / total)
        parts.append(f"and {plural(len(rest), 'kernel')} more with {share} of the time (-v shows them)")
    return parts


def _groups(found: Profile) -> list[Part]:
    if not found.groups:
        return ["No channels of this model can be pruned."]
    columns = [Column("Group", name=True), Column("Units"), Column("Block"), Column("Time")]
    columns += [Column("MACs"), Column("Params"), Column("Time/MACs")]
    spent = sum(kernel.microseconds for kernel in found.kernels)
    work = sum(kernel.macs for kernel in found.kernels) or 1
    rows = []
    for group in sorted(found.groups, key=lambda group: -group.microseconds * group.units):
        relative = (group.microseconds / spent) / (group.macs / work) if group.macs else 0.0
        rows.append(
            [
                group.name,
                f"{group.units:,}",
                "whole" if group.block >= group.units else f"{group.block}",
                f"{group.microseconds:.2f} µs",
                count(group.macs),
                count(group.params),
                f"{relative:.2f}x" if relative else "",
            ]
        )
    what = "Time, MACs and parameters are those of one unit; Time/MACs tells how much more time than the model's"
    return [Grid(columns, rows), "", f"{what} average it takes for its work."]
