"""Who made the mistake decides what is raised.

A `UserError` is something the user can mend: the command line prints its one line and ends with `exit_code`.
Anything else that escapes is a bug of ours and crashes with its traceback.

Mistakes that take more than a line to explain have a class of their own, whose `code` is the name of an entry in
docs/errors.md: the command line puts it in brackets behind the line.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was given: one line that names the thing and says what to do."""

    exit_code = 2
    code = ""
    """Of its entry in docs/errors.md; empty: the line says all there is."""


class InvalidModel(UserError):
    """A file that is no valid ONNX model, or lacks a part of it."""

    code = "invalid-model"


class NotRunnable(UserError):
    """A model that onnxruntime does not accept, or cannot run."""

    code = "not-runnable"


class OpenSizes(UserError):
    """Inputs whose sizes are open, or cannot be as they were given."""

    code = "open-sizes"


class NothingPrunable(UserError):
    """A model, or what options left of it, in which no channel can go."""

    code = "nothing-prunable"


class NothingToCut(UserError):
    """What was asked for holds already, or the blocks and floors leave everything whole."""

    code = "nothing-to-cut"


class OutOfReach(UserError):
    """What was asked for does not hold even when all that may go is gone."""

    code = "out-of-reach"


class Unreachable(OutOfReach):
    """A counted target of that kind."""


class NoScores(UserError):
    """A criterion that says nothing of any group."""

    code = "no-scores"


class NoData(UserError):
    """An option that needs data, and none was named."""

    code = "no-data"


class UnfitData(UserError):
    """Data that the model cannot take, or that is not what it should be."""

    code = "unfit-data"


class NotFinite(UserError):
    """NaN or infinity in weights, or in what comes of them."""

    code = "not-finite"


class WrongPlan(UserError):
    """A plan that is damaged, or made for another model."""

    code = "wrong-plan"


class OtherRun(UserError):
    """A file or folder of an earlier run that does not belong to this one."""

    code = "other-run"


class NotWritable(UserError):
    """A place that cannot be written to."""

    code = "not-writable"


class MissingExtra(UserError):
    """A package that only some users need, and that is not installed."""

    code = "missing-extra"


class VerificationError(UserError):
    """A pruned model did not pass its check; nothing was written."""

    exit_code = 3
    code = "not-verified"
