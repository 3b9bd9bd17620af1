"""What each operator does to the ids of its inputs. One family per file; importing this fills the registry."""

from onnxprune.analysis.rules import (  # noqa: F401  imported for the rules they register
    attention,
    conv,
    elementwise,
    index,
    join,
    layout,
    linear,
    norm,
    pool,
    quant,
    recurrent,
    reduce,
    shape,
    spatial,
)
from onnxprune.analysis.rules.registry import RULES, Flow, Refuse, Rule, Value, rule

__all__ = ["RULES", "Flow", "Refuse", "Rule", "Value", "rule"]
