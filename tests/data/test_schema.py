"""A field is a key; what a key may hold is what the annotation says, and a mistake says where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from onnxprune.data.preprocess import Preprocess
from onnxprune.data.schema import Reader, options_of, with_defaults
from onnxprune.data.sources import Request
from onnxprune.errors import UserError
from onnxprune.passes import passes_by_name


@dataclass(frozen=True)
class Inner:
    deep: float = 0.5
    threads: int = 1
    dims: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Thing:
    must: int
    flag: bool = False
    word: Literal["a", "b"] = "a"
    blocks: int | str = "auto"
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 1)
    shares: Mapping[str, float] | None = None
    inner: Inner = field(default_factory=Inner)
    read: str | Path | None = None
    written: Path | None = None
    data: Request | None = None
    metric: str | Callable[[Any], float] | None = None
    on_progress: Callable[[float], None] | None = None
    threads: int = 1

    writes: ClassVar[tuple[str, ...]] = ("written",)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    (tmp_path / "there.json").write_text("{}")
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "pre.toml").write_text("size = 32\nmean = [0.5]")
    return Reader(tmp_path, {"train": Request("random:7", limit=3)})


def test_all_that_a_table_may_hold(reader: Reader) -> None:
    table = {
        "must": 3,
        "flag": True,
        "word": "b",
        "blocks": 8,
        "names": ["x", "y"],
        "pair": [2, 3],
        "shares": {"layer1.conv": 1},
        "inner": {"deep": 1, "dims": {"batch": 4}},
        "read": "there.json",
        "written": "new.onnx",
        "data": "x.npy",
        "metric": "mine:metric",
    }
    found = reader.read(Thing, table)
    base = reader.base
    assert found == Thing(
        3,
        True,
        "b",
        8,
        ("x", "y"),
        (2, 3),
        {"layer1.conv": 1.0},
        Inner(1.0, dims={"batch": 4}),
        base / "there.json",
        base / "new.onnx",
        Request(str(base / "x.npy")),
        "mine:metric",
    )
    assert type(found.inner.deep) is float


def test_what_is_no_option() -> None:
    assert "on_progress" not in options_of(Thing)
    assert {"metric", "data", "written"} <= set(options_of(Thing))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "must is missing"),
        ({"must": 1, "nmaes": []}, "nmaes: unknown key; did you mean 'names' or 'shares'? (there are: must, flag,"),
        ({"must": 1, "on_progress": 1}, "on_progress: unknown key"),
        ({"must": True}, "must must be a whole number, not True"),
        ({"must": 1.0}, "must must be a whole number, not 1.0"),
        ({"must": 1, "flag": 1}, "flag must be true or false, not 1"),
        ({"must": 1, "word": "c"}, "word must be 'a' or 'b', not 'c'"),
        ({"must": 1, "blocks": 1.5}, "blocks must be a whole number or a string, not 1.5"),
        ({"must": 1, "names": "x"}, "names must be a list, not 'x'"),
        ({"must": 1, "names": ["x", 1]}, "names[1] must be a string, not 1"),
        ({"must": 1, "pair": [1]}, "pair must be a list of 2, not [1]"),
        ({"must": 1, "shares": 1}, "shares must be a table, not 1"),
        ({"must": 1, "shares": {"a.b": "x"}}, "shares.\"a.b\" must be a number, not 'x'"),
        ({"must": 1, "inner": {"depp": 1}}, "inner.depp: unknown key; did you mean 'deep'?"),
        ({"must": 1, "inner": []}, "inner must be a table, not []"),
        ({"must": 1, "read": "gone.json"}, "gone.json'"),
        ({"must": 1, "read": 1}, "read must be the name of a file, not 1"),
        ({"must": 1, "data": "gone/"}, "data: there is no"),
        ({"must": 1, "data": "trian"}, "did you mean 'train'?"),
        ({"must": 1, "data": {"limit": 1}}, "data.spec is missing"),
        ({"must": 1, "data": {"spec": "random", "limti": 1}}, "data.limti: unknown key; did you mean 'limit'?"),
        ({"must": 1, "data": {"spec": "random", "preprocess": {"sice": 1}}}, "data.preprocess: unknown key 'sice'"),
    ],
)
def test_mistakes(table: dict[str, Any], message: str, reader: Reader) -> None:
    with pytest.raises(UserError) as error:
        reader.read(Thing, table)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("train", Request("random:7", limit=3)),
        ({"spec": "train", "limit": 2, "batch": 8}, Request("random:7", limit=2, batch=8)),
        ("random:5", Request("random:5")),
        ("mine:batches", Request("mine:batches")),
        ({"spec": "random", "dims": {"n": 2}}, Request("random", dims=(("n", 2),))),
        ({"spec": "random", "preprocess": {"size": 9, "mean": 0.5}}, Request("random", Preprocess((9, 9), (0.5,)))),
        ({"spec": "random", "preprocess": "pre.toml"}, Request("random", Preprocess((32, 32), (0.5,)))),
    ],
)
def test_data(value: Any, wanted: Request, reader: Reader) -> None:
    assert reader.request(value, "data") == wanted


def test_defaults_reach_all_depths_and_spare_what_is_given() -> None:
    table: dict[str, Any] = {"must": 1, "threads": 3, "data": "random"}
    found = with_defaults(Reader().read(Thing, table), table, {"threads": 2, "dims": {"batch": 4}})
    assert (found.threads, found.inner.threads, found.inner.dims) == (3, 2, {"batch": 4})
    assert found.data == Request("random", dims=(("batch", 4),))
    table = {"must": 1, "inner": {"threads": 7}}
    assert with_defaults(Reader().read(Thing, table), table, {"threads": 2}).inner.threads == 7


@pytest.mark.parametrize("name", sorted(passes_by_name()))
def test_every_pass_can_be_written(name: str) -> None:
    """An annotation that only a type checker sees, or a field that no file can fill, would show here."""
    cls = passes_by_name()[name]
    needed = {"data": "random", "path": "x.json", "max_drop": 0.1}
    options = options_of(cls)
    given = {key: value for key, value in needed.items() if key in options}
    if name == "load_plan":
        del given["path"]
        with pytest.raises(UserError, match="path is missing"):
            Reader().read(cls, given)
    else:
        assert type(Reader().read(cls, given)) is cls
