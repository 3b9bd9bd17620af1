"""The options of a pruning run: the command line first, then the file given by `--config`, then the passes' defaults.

The names are the fields of the passes `Score` and `Select`, in all three places.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from onnxprune.cli import data_arguments
from onnxprune.cli.arguments import Parser, Words, file_name, positive, whole
from onnxprune.data.sources import Request
from onnxprune.errors import NoData, UserError
from onnxprune.passes import Choose, Score, Select, Spare, Steps, Verify
from onnxprune.passes.compensate import MAKE_UPS
from onnxprune.pipeline.manager import Checked, Pass
from onnxprune.scoring.criteria import CRITERIA
from onnxprune.scoring.gradient_criteria import ASKING, GRADIENT_CRITERIA
from onnxprune.scoring.reconstruction import DATA_CRITERIA
from onnxprune.scoring.scores import NORMALIZERS, REDUCERS
from onnxprune.selection import template
from onnxprune.selection.schedule import SCHEDULES
from onnxprune.selection.schedule import check_options as check_steps
from onnxprune.selection.select import SCOPES
from onnxprune.targets.costs import COSTS, limited_by
from onnxprune.text.names import suggest


@dataclass(frozen=True)
class Settings:
    """The passes with everything decided."""

    score: Score
    select: Select
    steps: int
    schedule: str
    max_drop: float | None
    metric: str | None
    data: Request | None
    """What to measure on."""
    calib: Request | None
    """What to compensate on."""
    auto: Request | None
    """What to try criteria on; None: there is nothing to choose."""
    folder: str | None
    """For what a stopped run needs to go on."""
    compensate: str
    """By what is made up for what was cut."""
    layers: bool
    """Whether every layer is compared with the original's."""

    def makers(self, verify: str, threads: int, say: Callable[[str], None]) -> list[Pass]:
        """The passes that lead to the plan."""
        if self.auto is not None:
            return [Choose(self.auto, self.score, self.select, threads=threads, compensate=self.compensate)]
        if self.max_drop is not None:
            assert self.data is not None
            bound, data, folder, how = self.max_drop, self.data, self.folder, self.compensate
            return [self.score, Spare(bound, data, self.select, self.calib, self.metric, threads, folder, say, how)]
        if self.steps > 1:
            check = Verify(mode=verify, threads=threads)
            return [Steps(self.score, self.select, check, self.steps, self.schedule, self.folder)]
        return [self.score, self.select]


def add(parser: Parser) -> None:
    """The arguments. None of them has a default here: what is not given is left to the file."""
    group = parser.add_argument_group("what goes")
    group.add_argument(
        "--ratio", metavar="R", type=float, help="fraction of each group's prunable units to remove (default: 0.3)"
    )
    group.add_argument(
        "--target",
        metavar="T",
        action="append",
        dest="targets",
        help="what has to hold in the end: macs=0.5, params=0.6, bytes=4MB, peak-memory=0.7, latency=0.5, "
        "latency=12ms; a fraction of the original or an amount (repeatable; all hold at once)",
    )
    group.add_argument(
        "--criterion",
        metavar="C",
        type=Words((*sorted(CRITERIA), *sorted(ASKING), "auto")),
        help=f"what makes a channel matter: {', '.join(sorted(CRITERIA))} (default: l1), "
        f"or, asking the data of --calib, {', '.join(sorted(DATA_CRITERIA))} and, with torch, "
        f"{', '.join(sorted(GRADIENT_CRITERIA))}",
    )
    group.add_argument(
        "--scope",
        choices=SCOPES,
        help="local: every group by the ratio (default); global: one ranking over all groups; isomorphic: one for each "
        "set of groups that are built alike",
    )
    group.add_argument(
        "--round-to",
        metavar="N",
        type=_block,
        help="keep a multiple of N channels; auto: what this machine was measured to like (default); 1: any number",
    )
    group.add_argument(
        "--min-keep", metavar="F", type=float, help="fraction of each group that always stays (default: 0.1)"
    )
    group.add_argument(
        "--sensitivity",
        metavar="FILE",
        type=file_name,
        help="compare groups by what `onnxprune sensitivity` measured; one ranking over all groups",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=whole,
        help="of what is drawn (default: 0)",
    )
    group.add_argument("--reduce", choices=REDUCERS, help="over the members of a group (default: mean)")
    group.add_argument(
        "--normalize",
        choices=(*NORMALIZERS, *COSTS),
        help="how scores of different groups compare: by their mean (default), sum, max, as gaussian or as they are "
        "(none); or importance per macs, activation, params or latency, one ranking over all groups",
    )
    bound = parser.add_argument_group("as much as the data bears")
    bound.add_argument(
        "--max-drop",
        metavar="D",
        type=float,
        help="cut what saves most time while accuracy falls by D at most, 0.01 being one point; without labels, while "
        "at most that part of --data is judged otherwise (with --normalize macs or params: what saves most of these)",
    )
    bound.add_argument("--metric", metavar="M", help="module:function, measured instead of accuracy; more is better")
    steps = parser.add_argument_group("in several steps, the scores taken again on what the last one left")
    steps.add_argument("--steps", metavar="N", type=positive, help="how many (default: 1)")
    steps.add_argument(
        "--schedule",
        choices=tuple(SCHEDULES),
        help="linear: the same amount each time (default); exponential: the same share of what is left; cubic: much at "
        "first, little at the end",
    )
    steps.add_argument(
        "--run",
        metavar="DIR",
        type=file_name,
        dest="folder",
        help="keep every step's plan there; a stopped run goes on",
    )
    parser.add_argument(
        "--layers",
        action="store_true",
        help="say where the error enters: every layer's output against the original's, on --data, else on --calib",
    )
    which = parser.add_argument_group("which groups (repeatable; see `onnxprune analyze` for the names)")
    for name, meaning in (("include", "only"), ("exclude", "not")):
        which.add_argument(
            f"--{name}", metavar="GLOB", action="append", help=f"{meaning} groups, nodes or initializers of such a name"
        )
        which.add_argument(
            f"--{name}-op",
            metavar="OP",
            action="append",
            dest=f"{name}_ops",
            help=f"{meaning} channels made by such operators, Conv for instance",
        )
    which.add_argument(
        "--config",
        metavar="FILE",
        type=file_name,
        help="TOML file with any of these options and ratios of single groups (`onnxprune analyze --template`); "
        "what the command line says counts more",
    )


def _block(text: str) -> int | str:
    return "auto" if text == "auto" else positive(text)


def completed(args: Namespace) -> tuple[Namespace, list[str]]:
    """The arguments with those of the file given by `--config` where they say nothing, and what there is to note."""
    file = template.read(args.config) if args.config else template.Template()
    said = {"folder" if item.name == "run" else item.name: getattr(file, item.name) for item in fields(file)}
    notes = []
    bound = "--target" if args.targets is not None else "--max-drop" if args.max_drop is not None else None
    if bound and args.ratio is None and said["ratio"] is not None:
        notes.append(f"{bound} takes the place of the ratio in {args.config!r}")
        del said["ratio"]
    if args.schedule is not None and (args.steps or file.steps or 1) == 1:
        raise UserError("--schedule says how --steps go; ask for at least two steps")
    given = {name: value for name, value in vars(args).items() if value is not None}
    kept = {name: value for name, value in said.items() if value is not None}
    return Namespace(**{**vars(args), "threads": 1, **kept, **given}), notes


def decided(args: Namespace) -> Settings:
    """Put together and checked, from `completed` arguments: a mistake must not wait for the model to be read."""
    given, chosen = _given(Score, args), _given(Select, args)
    per = _per(given, chosen)
    steps = 1 if args.steps is None else args.steps
    schedule = args.schedule or "linear"
    check_steps(steps, schedule)
    _check_together(args, steps)
    if args.compensate not in (None, *MAKE_UPS):
        known = f"{suggest(args.compensate, MAKE_UPS)} (there are: {', '.join(MAKE_UPS)})"
        raise UserError(f"unknown way to compensate {args.compensate!r}{known}")
    calib = data_arguments.calibration(args, embedded=not args.model)
    if args.model:
        data_arguments.check_images(args)
    if args.layers and args.model and calib is None and args.data is None:
        raise UserError("--layers compares both models on data: name some, --data photos/ or --calib photos/")
    auto = given.get("criterion") == "auto"
    if auto:
        del given["criterion"]
        if calib is None:
            raise NoData("--criterion auto tries criteria on data: name some, --calib photos/ or module:function")
        if args.max_drop is not None or steps > 1:
            raise UserError("--criterion auto chooses for one plain cut; with --steps or --max-drop name a criterion")
    score = Score(**given, data=calib, sensitivity=args.sensitivity)
    if per == "none" and "scope" not in chosen:
        compares = score.criterion in ASKING or score.sensitivity is not None
        per = "latency" if args.max_drop is not None else limited_by(chosen.get("targets", ())) if compares else "none"
        if per == "none" and score.sensitivity is not None:
            chosen["scope"] = "global"
    select = Select(**chosen, per=per, ratios=args.ratios)
    if (select.targets or args.max_drop is not None) and args.ratio is not None:
        select = replace(select, targets=(*select.targets, f"ratio={args.ratio}"))
    found = Settings(
        score,
        select,
        steps,
        schedule,
        args.max_drop,
        args.metric,
        _data(args),
        calib,
        calib if auto else None,
        args.folder,
        args.compensate or "sequential",
        args.layers,
    )
    for step in found.makers("off", 1, lambda line: None):
        if isinstance(step, Checked):
            step.check()
    return found


def _per(score: dict[str, Any], select: Mapping[str, Any]) -> str:
    """The cost that `normalize` names, if it names one; it is no option of the scores then."""
    name = score.get("normalize")
    known = (*NORMALIZERS, *COSTS)
    if name is not None and name not in known:
        raise UserError(f"unknown normalize {name!r}{suggest(name, known)} (there are: {', '.join(known)})")
    if name not in COSTS:
        return "none"
    del score["normalize"]
    if select.get("scope", "global") != "global":
        raise UserError(
            f"--scope {select['scope']} and --normalize {name} do not go together: importance per cost is one ranking "
            "of all groups"
        )
    return str(name)


def _check_together(args: Namespace, steps: int) -> None:
    if args.max_drop is not None and steps > 1:
        raise UserError("--max-drop and --steps do not go together; give one of them")
    if args.sensitivity is not None and steps > 1:
        raise UserError(
            "--sensitivity was measured on the whole model, and --steps score what is left; give one of them"
        )
    if args.folder is not None and steps == 1 and args.max_drop is None:
        raise UserError("--run keeps what --steps or --max-drop have done; give one of them")


def _data(args: Namespace) -> Request | None:
    """What to measure on; the network that is shipped has its own."""
    if args.data is None and (args.model or args.max_drop is None):
        if args.max_drop is not None or args.metric is not None:
            raise NoData("name the data to measure on: --data photos/, x.npz, module:function or random:64")
        if args.model:
            return None
    return data_arguments.asked(args, embedded=not args.model)


_DERIVED = ("ratios", "dims", "timed_dims", "per", "data", "sensitivity", "on_progress")
"""Fields of the passes that are no options of the same name."""


def _given(step: type[Any], args: Namespace) -> dict[str, Any]:
    names = [item.name for item in fields(step) if item.name not in _DERIVED]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
