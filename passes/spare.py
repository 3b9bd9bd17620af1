"""Cut as much as a bound on what is lost allows, measured on data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from onnxprune.apply import apply
from onnxprune.budget import Order, length_within
from onnxprune.data import Dataset, Request, reopened
from onnxprune.drop import Try, deepest, drop_of
from onnxprune.errors import NothingToCut, UserError
from onnxprune.evaluate import Evaluation, Reference, evaluate
from onnxprune.journal import Journal, digest
from onnxprune.kinds import is_number
from onnxprune.meter import Meter
from onnxprune.passes.compensate import Compensate
from onnxprune.passes.select import Select
from onnxprune.pipeline import State, changed
from onnxprune.replacing import write_text


@dataclass(frozen=True)
class Spare:
    """The deepest cut along the order of `select` that the data bears."""

    max_drop: float
    """Of the metric, of accuracy, else of agreement with the original, else the relative distance of the outputs."""
    data: Request
    select: Select = field(default_factory=Select)
    calib: Request | None = None
    """What every model is compensated on before it is measured; None: it is not."""
    metric: str | None = None
    """`module:function`, see `onnxprune.evaluate`."""
    threads: int = 1
    folder: str | Path | None = None
    """Where every try is kept, so that a stopped run goes on; None: nowhere."""
    on_try: Callable[[str], None] | None = None
    """Told of every model that was measured, in a sentence."""

    needs: ClassVar[tuple[str, ...]] = ("model", "coupling", "scores")
    gives: ClassVar[tuple[str, ...]] = ("plan",)
    drops: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        if not (is_number(self.max_drop) and 0 <= self.max_drop < 1):
            raise UserError(f"max_drop must be 0 or more and less than 1, not {self.max_drop!r}: 0.01 is one point")
        self.select.check()

    def run(self, state: State) -> State:
        assert state.coupling is not None
        meter = Meter(state.model, state.coupling, self.select.dims)
        order, notes = self.select.order(state, meter)
        targets = self.select.targets
        least = length_within(order, targets, meter, **self.select.watched(state, targets))[0] if targets else 0
        bench = _Tries(self, state, order, meter)
        length = deepest(order.size, self.max_drop, bench.measure, least=least, known=bench.known, on_try=bench.keep)
        if not any(order.counts(length).values()):
            raise NothingToCut(
                f"nothing can go: the smallest cut that was tried loses more than --max-drop {self.max_drop:g}"
            )
        plan = order.plan(length, max_drop=self.max_drop, bound_by="max-drop", targets=list(targets))
        return changed(state, plan=plan, notes=notes)


class _Tries:
    """Prunes, measures and remembers."""

    def __init__(self, options: Spare, state: State, order: Order, meter: Meter) -> None:
        self.options, self.state, self.order, self.meter = options, state, order, meter
        self.dataset: Dataset = reopened(options.data, state.model)
        self.original = Reference(state.model, self.dataset, threads=options.threads)
        self.before = self._evaluated(state)
        self.by_widths: dict[tuple[int, ...], tuple[float, str]] = {}
        self.said: set[tuple[int, ...]] = set()
        self.whole = meter.usage({}).macs
        self.journal = self._journal()
        self.known = self._read()

    def measure(self, length: int) -> tuple[float, str]:
        counts = self.order.counts(length)
        if not any(counts.values()):
            return 0.0, "nothing"
        widths = tuple(counts.values())
        if widths not in self.by_widths:
            plan = self.order.plan(length)
            made = State(apply(self.state.model, plan), original=self.state.model, plan=plan)
            if self.options.calib is not None:
                made = Compensate(self.options.calib, self.options.threads).run(made)
            self.by_widths[widths] = drop_of(self.before, self._evaluated(made))
        return self.by_widths[widths]

    def keep(self, one: Try) -> None:
        self.known[one.length] = (one.drop, one.measure)
        if self.journal is not None:
            tries = [{"length": n, "drop": drop, "measure": name} for n, (drop, name) in sorted(self.known.items())]
            write_text(self.journal / "tries.json", json.dumps(tries, indent=2) + "\n")
        counts = self.order.counts(one.length)
        widths = tuple(counts.values())
        if self.options.on_try is not None and widths not in self.said:  # lengths between two blocks are one model
            self.said.add(widths)
            work = self.meter.usage(counts).macs
            share = f"{100 * work / self.whole:.1f}% of the MACs" if self.whole else f"{one.length} units cut"
            verdict = "holds" if one.drop <= self.options.max_drop else "too much"
            self.options.on_try(f"tried {share}: {one.measure} off by {one.drop:.4f}, {verdict}")

    def _evaluated(self, state: State) -> Evaluation:
        options = self.options
        return evaluate(
            state.model, self.dataset, original=self.original, metric=options.metric, threads=options.threads
        )

    def _journal(self) -> Journal | None:
        if self.options.folder is None:
            return None
        facts: dict[str, Any] = {"select": asdict(self.options.select), "metric": self.options.metric}
        facts |= {"calib": asdict(self.options.calib) if self.options.calib else None}
        facts |= {"max_drop": self.options.max_drop, "data": self.dataset.digest, "model": digest(self.state.model)}
        scores = self.state.scores
        assert scores is not None
        facts["scores"] = [scores.criterion, scores.seed, scores.reduce, scores.normalize]
        return Journal(self.options.folder, facts)

    def _read(self) -> dict[int, tuple[float, str]]:
        if self.journal is None or not (self.journal / "tries.json").exists():
            return {}
        try:
            tries = json.loads((self.journal / "tries.json").read_bytes())
            return {int(one["length"]): (float(one["drop"]), str(one["measure"])) for one in tries}
        except (OSError, ValueError, TypeError, LookupError):
            return {}  # measured again; the next try replaces the file
