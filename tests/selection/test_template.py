"""A template as written sets nothing; uncommented, it sets what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune.analysis.coupling import Coupling, Group, Slot
from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.selection import template
from onnxprune.selection.template import Template, read


def group(name: str, size: int = 64, tensors: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> Group:
    every = np.arange(size)
    slots = tuple(Slot(tensor, 0, size, True, "out", every, every, "Conv") for tensor in tensors)
    return Group(name, (name, *more), ("Conv",), size, slots)


MODEL = Coupling(
    (group("layer1.0.conv1", 64, ("conv1.weight", "bn1.weight"), ("layer1.1.conv1",)), group("/fc/Gemm", 10)), (), {}
)


def uncommented(text: str) -> str:
    """Only lines of the form `# key = value`."""
    return re.sub(r'^# (?=[a-z_]+ = |")', "", text, flags=re.MULTILINE)


def read_text(folder: Path, text: str) -> Template:
    path = folder / "prune.toml"
    path.write_text(text, encoding="utf-8")
    return read(path)


def test_as_written_it_changes_nothing(tmp_path: Path) -> None:
    assert read_text(tmp_path, template.write(MODEL)) == Template()


def test_every_group_and_option_is_there(tmp_path: Path) -> None:
    text = template.write(MODEL)
    assert '# "layer1.0.conv1" = 0.3  # 64 units; layer1.1.conv1, conv1.weight:0, bn1.weight:0\n' in text
    (tmp_path / "sensitivity.json").touch()
    found = read_text(tmp_path, uncommented(text))
    assert found == Template(
        criterion="l1",
        seed=0,
        reduce="mean",
        normalize="mean",
        ratio=0.3,
        targets=(),
        scope="local",
        round_to="auto",
        min_keep=0.1,
        steps=1,
        schedule="linear",
        include=(),
        exclude=(),
        include_ops=(),
        exclude_ops=(),
        max_drop=0.01,
        metric="module:function",
        data=Request("random:64"),
        calib=Request("random:256"),
        compensate="sequential",
        sensitivity=tmp_path / "sensitivity.json",
        run=tmp_path / "way",
        threads=1,
        ratios={"layer1.0.conv1": 0.3, "/fc/Gemm": 0.3},
    )


def test_long_lists_of_members_are_cut_short() -> None:
    text = template.write(Coupling((group("g", 4, tuple(f"w{number}" for number in range(9))),), (), {}))
    assert "# 4 units; w0:0, w1:0, w2:0, w3:0, w4:0, w5:0 and 3 more\n" in text


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), unique=True, max_size=4))
def test_any_name_survives(tmp_path: Path, names: list[str]) -> None:
    model = Coupling(tuple(group(name, 8, (name,)) for name in names), (), {})
    assert read_text(tmp_path, template.write(model)) == Template()
    (tmp_path / "sensitivity.json").touch()
    assert read_text(tmp_path, uncommented(template.write(model))).ratios == dict.fromkeys(names, 0.3)


def test_what_is_set_is_read(tmp_path: Path) -> None:
    found = read_text(tmp_path, 'scope = "global"\nround_to = 8\nexclude = ["head.*"]\n[groups]\n"a.b" = 0\nc = 0.5\n')
    assert found == Template(scope="global", round_to=8, exclude=("head.*",), ratios={"a.b": 0, "c": 0.5})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ratoi = 0.3", "ratoi: unknown key; did you mean 'ratio'"),
        ('ratio = "0.3"', "ratio must be a number, not '0.3'"),
        ("ratio = true", "ratio must be a number, not True"),
        ("round_to = 8.0", "round_to must be a whole number or 'auto', not 8.0"),
        ('data = "gone/"', "data: there is no"),
        ("data = {spec = 'random', limt = 1}", "data.limt: unknown key; did you mean 'limit'"),
        ('sensitivity = "gone.json"', "sensitivity: there is no"),
        ("criterion = 1", "criterion must be a string, not 1"),
        ('include = "conv*"', "include must be a list, not 'conv*'"),
        ("exclude = [1]", "exclude[0] must be a string, not 1"),
        ("groups = 3", "groups must be a table, not 3"),
        ("[groups]\na = '0.3'", "groups.a must be a number, not '0.3'"),
        ("[groups]\nlayer1.0.conv1 = 0.3", "groups.layer1 must be a number, not a table: names with dots need quotes"),
        ("ratio = ", "is not valid TOML: Invalid value"),
        ("ratio = 0.1\nratio = 0.2", "is not valid TOML: Cannot overwrite a value"),
        ("a = " + "[" * 100_000, "is not valid TOML"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_text(tmp_path, text)
    assert message in str(error.value)
    assert "prune.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is not valid TOML"):
        read(tmp_path / "binary.toml")


def test_calibration_without_data(tmp_path: Path) -> None:
    """A folder of that name or not."""
    (tmp_path / "none").mkdir()
    assert read_text(tmp_path, 'calib = "none"\n').calib == Request("synthetic:512")


def test_data_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch must be a whole number, 1 or more, not 0"):
        read_text(tmp_path, 'calib = {spec = "random:8", batch = 0}\n')
