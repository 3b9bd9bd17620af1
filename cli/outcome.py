"""What came of a pruning run, as data: the file's JSON, and the figures that the table shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxprune.accuracy.evaluate import Evaluation
from onnxprune.analysis.coupling import Reason
from onnxprune.checking.verify import Verification
from onnxprune.counting.cost import Cost
from onnxprune.cutting.plan import GroupSummary, Plan
from onnxprune.repair.layer_errors import LayerError
from onnxprune.targets.grammar import parse
from onnxprune.timing.bench import BenchReport, BenchRow


@dataclass(frozen=True, eq=False)
class Outcome:
    """Everything there is to report."""

    model: Path
    output: Path
    plan_file: Path | None
    plan: Plan
    before: Cost
    after: Cost
    verification: Verification
    bench: BenchReport | None
    """The original, then the pruned model."""
    kept: tuple[Evaluation, Evaluation] | None
    """What the original and the pruned model do on data; None: there was none."""
    layers: Sequence[LayerError] = ()
    """Where the error enters, if that was asked for."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """By pass."""
    notes: Sequence[str] = ()
    """What the passes had to say."""
    skipped: Mapping[str, Reason] = field(default_factory=dict)
    """Groups that the criterion said nothing about."""

    def timed(self, seconds: Sequence[tuple[str, float]], skipped: Mapping[str, Reason]) -> Outcome:
        return replace(self, seconds=dict(seconds), skipped=skipped)

    @property
    def files(self) -> list[Path]:
        """What was written."""
        return [self.output, *([self.plan_file] if self.plan_file is not None else [])]

    @property
    def groups(self) -> tuple[GroupSummary, ...]:
        """Those open to selection; of a plan that does not list them, those that it cuts."""
        if self.plan.groups:
            return self.plan.groups
        names = dict.fromkeys(cut.group for cut in self.plan.cuts)
        return tuple(GroupSummary(name, 0, 0) for name in names)

    @property
    def cut_groups(self) -> int:
        """How many of the groups are cut."""
        return len({cut.group for cut in self.plan.cuts})

    @property
    def pruned(self) -> BenchRow | None:
        """The pruned model's timing."""
        return self.bench.rows[1] if self.bench else None

    @property
    def warnings(self) -> list[str]:
        """What the user should not overlook."""
        return [*self._slower(), *self._late()]

    def _slower(self) -> list[str]:
        """Whether it is faster at all."""
        row = self.pruned
        if row is None:
            return ["speed was not measured: the result may be slower than the original"]
        if row.verdict in ("faster", "reference"):
            return []
        aligned = self.plan.meta.get("round_to") == "auto"
        advice = "" if aligned else "; widths that suit the machine are often faster, try --round-to auto"
        times = f"{row.speedup_low:.2f} to {row.speedup_high:.2f} times"
        if row.verdict == "slower":
            return [f"the pruned model is SLOWER than the original: it is {times} as fast as the original{advice}"]
        if row.verdict == "about the same":
            return [f"the pruned model is about as fast as the original ({times}){advice}"]
        unsure = "the machine was too noisy to tell whether the pruned model is faster"
        return [f"{unsure}: it is {times} as fast as the original{advice}"]

    def _late(self) -> list[str]:
        """Whether the last measurement bears out a latency target. What a plan notes may be anything: it is a file."""
        row = self.pruned
        noted = self.plan.meta.get("targets")
        texts = [text for text in noted if isinstance(text, str)] if isinstance(noted, list) else []
        wanted = [text for text in texts if text.startswith("latency=")]
        if row is None or not self.bench or not wanted:
            return []
        target = parse(wanted[:1])[0]
        limit = target.value / self.bench.rows[0].median_ms if target.absolute else target.value
        if 1 / row.speedup_high <= limit:
            return []
        took = f"{1 / row.speedup_high:.2f} to {1 / row.speedup_low:.2f} of the original's time"
        return [
            f"target {wanted[0]!r} was missed in the last measurement: it took {took}; measure again, or ask for less"
        ]


def document(found: Outcome) -> dict[str, Any]:
    """For JSON."""
    verdict = found.verification
    return {
        "model": found.model,
        "output": found.output,
        "plan": found.plan_file,
        "options": found.plan.meta,
        "before": _side(found, 0),
        "after": _side(found, 1),
        "speedup": found.pruned.speedup if found.pruned else None,
        "groups": {"cut": found.cut_groups, "total": len(found.groups)},
        "units": {"removed": sum(g.removed for g in found.groups), "total": sum(g.units for g in found.groups)},
        "skipped": {name: reason.sentence for name, reason in found.skipped.items()},
        "verification": verification(verdict),
        "bench": found.bench.to_dict() if found.bench else None,
        "layers": [{**asdict(each), "sqnr_db": each.sqnr_db} for each in found.layers],
        "warnings": found.warnings,
        "notes": found.notes,
        "seconds": found.seconds,
    }


def verification(found: Verification) -> dict[str, Any]:
    """The verdict alone, for JSON."""
    return {
        "mode": found.mode,
        "ok": found.ok,
        "error": found.error,
        "moved": found.moved,
        "deviation": found.deviation,
        "by_tensor": found.by_tensor,
        "inexact": found.inexact,
        "notes": found.notes,
        "dims": found.dims,
    }


def _side(found: Outcome, index: int) -> dict[str, Any]:
    total = (found.before, found.after)[index]
    return {
        "params": total.params,
        "macs": total.macs,
        "bytes": total.bytes,
        "dims": total.dims,
        "latency_ms": found.bench.rows[index].median_ms if found.bench else None,
        "accuracy": found.kept[index].top1 if found.kept else None,
        "data": asdict(found.kept[index]) if found.kept else None,
    }
