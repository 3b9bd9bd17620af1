"""Who made the mistake decides what is raised.

A `UserError` is something the user can mend: the command line prints its one line and ends with `exit_code`.
Anything else that escapes is a bug of ours and crashes with its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what was given: one line that names the thing and says what to do."""

    exit_code = 2


class NothingToCut(UserError):
    """What was asked for holds already, or the blocks and floors leave everything whole."""


class Unreachable(UserError):
    """A target that does not hold even when all that may go is gone."""


class VerificationError(UserError):
    """A pruned model did not pass its check; nothing was written."""

    exit_code = 3
