"""Cut as much as a bound on what is lost allows, measured on data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from onnxprune.accuracy.drop import deepest, drop_of, holds
from onnxprune.accuracy.evaluate import Evaluation, Reference, evaluate
from onnxprune.counting.meter import Meter
from onnxprune.cutting import plan_json
from onnxprune.cutting.apply import apply
from onnxprune.cutting.plan import Plan
from onnxprune.data.sources import Dataset, Request, reopened
from onnxprune.errors import NothingToCut, UserError
from onnxprune.files.replacing import write_text
from onnxprune.passes.compensate import make_up
from onnxprune.passes.select import Select
from onnxprune.pipeline.journal import Journal, digest
from onnxprune.pipeline.manager import State, changed
from onnxprune.targets.budget import Order, length_within
from onnxprune.text.kinds import is_number


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
    compensate: str = "sequential"
    """How: one of `onnxprune.passes.compensate.MAKE_UPS`."""

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
        tries = _Tries(self, state, order, meter)
        length = deepest(order.size, self.max_drop, tries.measure, least=least)
        if not any(order.counts(length).values()):
            raise NothingToCut(
                f"nothing can go: the smallest cut that was tried loses more than --max-drop {self.max_drop:g}"
            )
        plan = order.plan(length, max_drop=self.max_drop, bound_by="max-drop", targets=list(targets))
        return changed(state, plan=plan, notes=(*tries.notes, *notes))


class _Tries:
    """Prunes, measures and remembers, by what is cut: the order may be another one in a later run."""

    def __init__(self, options: Spare, state: State, order: Order, meter: Meter) -> None:
        self.options, self.state, self.order, self.meter = options, state, order, meter
        self.dataset: Dataset = reopened(options.data, state.model)
        self.original = Reference(state.model, self.dataset, threads=options.threads)
        self.before = self._evaluated(state)
        self.whole = meter.usage({}).macs
        self.journal = self._journal()
        self.notes: list[str] = []
        self.known = self._read()
        self.said: set[str] = set()

    def measure(self, length: int) -> tuple[float, str]:
        """What is lost, and of what."""
        counts = self.order.counts(length)
        if not any(counts.values()):
            return 0.0, "nothing"
        plan = self.order.plan(length)
        key = _key(plan)
        if key not in self.known:
            made = State(apply(self.state.model, plan), original=self.state.model, plan=plan)
            if self.options.calib is not None:
                for step in make_up(self.options.compensate, self.options.calib, self.options.threads):
                    made = step.run(made)
            self.known[key] = drop_of(self.before, self._evaluated(made))
            self._write()
        self._tell(key, counts)
        return self.known[key]

    def _tell(self, key: str, counts: dict[str, int]) -> None:
        if self.options.on_try is None or key in self.said:  # lengths between two blocks are one model
            return
        self.said.add(key)
        lost, what = self.known[key]
        work = self.meter.usage(counts).macs
        share = f"{100 * work / self.whole:.1f}% of the MACs" if self.whole else f"{sum(counts.values())} units cut"
        verdict = "holds" if holds(lost, self.options.max_drop) else "too much"
        self.options.on_try(f"tried {share}: {what} off by {lost:.4f}, {verdict}")

    def _evaluated(self, state: State) -> Evaluation:
        options = self.options
        return evaluate(
            state.model, self.dataset, original=self.original, metric=options.metric, threads=options.threads
        )

    def _journal(self) -> Journal | None:
        options = self.options
        if options.folder is None:
            return None
        calib = reopened(options.calib, self.state.model).digest if options.calib else None
        facts = {"model": digest(self.state.model), "data": self.dataset.digest, "calib": calib}
        how = {"compensate": options.compensate} if options.compensate != "sequential" else {}
        return Journal(options.folder, {**facts, **how, "metric": options.metric, "max_drop": options.max_drop})

    def _write(self) -> None:
        if self.journal is not None:
            tries = [{"cut": key, "drop": lost, "measure": what} for key, (lost, what) in self.known.items()]
            write_text(self.journal / _FILE, json.dumps(tries, indent=2) + "\n")

    def _read(self) -> dict[str, tuple[float, str]]:
        if self.journal is None or not (self.journal / _FILE).exists():
            return {}
        try:
            tries = json.loads((self.journal / _FILE).read_bytes())
            found = {str(one["cut"]): (float(one["drop"]), str(one["measure"])) for one in tries}
        except (OSError, ValueError, TypeError, LookupError):
            self.notes.append(f"{str(self.journal / _FILE)!r} was damaged; measured anew")
            return {}
        self.notes.append(f"going on with {len(found)} tries from {str(self.journal / _FILE)!r}")
        return found


_FILE = "tries.json"


def _key(plan: Plan) -> str:
    """A digest of what a plan cuts."""
    return hashlib.sha256(plan_json.to_json(Plan(plan.cuts)).encode("utf-8", "backslashreplace")).hexdigest()[:16]
