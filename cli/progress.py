"""Whatever takes longer than two seconds says on stderr what it is doing; what does not, says nothing.

The clock runs from the start of the command, not of a step, so that many short steps do not add up to a long silence.
A terminal shows one moving line that vanishes at the end; a log gets a line for each step that takes its time.

    0 s            2 s                        5 s
    reading cutting verifying ............... writing
    (silence)      verifying ...              (half a second at least, or it is not worth a line)

A step that knows how far it is says so in a log too, after ten seconds and then each time that it has taken twice as
long, every five minutes at least: `measuring what each group costs: 40%, about 2 min left`.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from onnxprune.cli.talk import Talk, say
from onnxprune.pipeline.manager import Observer, Pass, State, name_of

if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 2.0
"""Seconds of silence at the start of a command."""
BRIEF = 0.5
"""Seconds that a step may take without being mentioned in a log."""
LONG = 10.0
"""Seconds after which a log hears how far a step is."""
SELDOM = 300.0
"""Seconds after which it hears so again at the latest."""
_TICK = 0.1

DOING = {
    "Normalize": "normalising the graph",
    "Analyze": "analysing",
    "Score": "scoring the channels",
    "Select": "selecting what goes",
    "Steps": "pruning step by step",
    "LoadPlan": "reading the plan",
    "Apply": "cutting",
    "Prune": "pruning",
    "Finetune": "training",
    "Quantize": "quantising",
    "Choose": "trying criteria",
    "Spare": "cutting as much as the data bears",
    "Compensate": "making up for what was cut",
    "Reestimate": "making up for what was cut",
    "Verify": "verifying against the masked original",
    "Bench": "measuring latency",
    "Save": "writing",
}


class Activity:
    """What is being done right now, shown by a thread of its own if it goes on for long."""

    def __init__(self, talk: Talk, *, delay: float = DELAY, long: float = LONG) -> None:
        self._silent, self._delay, self._long = talk.quiet or sys.stderr is None, delay, long
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._step: tuple[str, float] = ("", 0.0)
        self._part: float | None = None
        self._said = ""

    def __enter__(self) -> Activity:
        if not self._silent:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if not self._silent:
            self._thread.join()

    def step(self, what: str) -> None:
        """Something new begins, unless it is what is being done already."""
        if what != self._step[0]:
            self._step, self._part, self._said = (what, time.monotonic()), None, ""

    def part(self, part: float) -> None:
        """That much of the step is over, 0 to 1."""
        self._part = part

    def tell(self, text: str) -> None:
        """How the step is getting on, for whoever is looking."""
        self._said = text

    def _watch(self) -> None:
        if self._over.wait(self._delay):
            return
        if sys.stderr.isatty():
            self._animate()
        else:
            self._log()

    def _log(self) -> None:
        said, again = "", self._long
        while not self._over.wait(_TICK):
            (what, since), part = self._step, self._part
            taken = time.monotonic() - since
            if what != said and taken >= BRIEF:
                say(f"{what} ...")
                said, again = what, self._long
            if what == said and taken >= again:
                again = taken + min(taken, SELDOM)
                if part:
                    say(f"{what}: {part:.0%}, about {_rough(taken * (1 - part) / part)} left")

    def _animate(self) -> None:
        with _bar() as bar:
            shown, task = "", None
            while not self._over.wait(_TICK):
                what, part = self._step[0], self._part
                if what != shown or task is None:
                    for old in bar.task_ids:
                        bar.remove_task(old)
                    shown, task = what, bar.add_task(what, total=None)
                if part is not None:
                    bar.update(task, total=1.0, completed=part)
                if self._said:
                    bar.update(task, description=f"{what}: {self._said}")


def _rough(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


class Narrator(Observer):
    """Tells which pass is running, and with `-v` how long each of them took."""

    def __init__(self, activity: Activity, talk: Talk) -> None:
        self.activity, self.talk = activity, talk

    def before(self, step: Pass, state: State) -> None:
        self.activity.step(DOING.get(name_of(step), name_of(step)))

    def after(self, step: Pass, state: State, seconds: float) -> None:
        self.talk.detail(f"{name_of(step):<10} {seconds:7.3f} s")


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # the result is nobody's business here
        refresh_per_second=5,
    )
