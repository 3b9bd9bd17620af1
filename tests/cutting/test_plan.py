"""Plans are valid by construction, survive their file, and hostile files are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.cutting import plan_json
from onnxprune.cutting.plan import Cut, GroupSummary, Plan, SlotRef, check
from onnxprune.cutting.plan_json import from_json, load, save, to_json
from onnxprune.errors import UserError

W, X = SlotRef("conv1.weight", 0, 8), SlotRef("conv2.weight", 1, 8, "in")
PLAN = Plan(
    (Cut("conv1", (1, 3), (W, X)), Cut("conv0", (5,), (X, SlotRef("y", 2, 6)))),
    (GroupSummary("conv1", 8, 2), GroupSummary("conv0", 6, 1, ("softmax",))),
    {"tool": "onnxprune 0.1.0", "ratio": 0.3, "include": ["ä*"]},
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    cuts = []
    for number in range(draw(st.integers(0, 4))):
        index = tuple(sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=10))))
        refs = draw(st.lists(st.tuples(names, st.integers(0, 4)), min_size=1, max_size=4, unique=True))
        # a tensor of its own per cut, else the sizes may contradict each other
        cuts.append(
            Cut(
                draw(names),
                index,
                tuple(
                    SlotRef(f"{number}{name}", axis, 32, draw(st.sampled_from(["", "out", "keep"])))
                    for name, axis in refs
                ),
            )
        )
    groups = draw(st.lists(st.builds(GroupSummary, names, st.just(9), st.integers(0, 9), st.just(("a", "b")))))
    meta = draw(st.dictionaries(names, st.none() | st.booleans() | st.integers() | names | st.lists(names)))
    return Plan(tuple(cuts), tuple(groups), meta)


@settings(deadline=None)  # a busy machine is not a failure
@given(plans())
def test_the_file_says_what_the_plan_says(plan: Plan) -> None:
    assert from_json(to_json(plan)) == plan


def test_the_file_is_made_to_be_read_and_compared(tmp_path: Path) -> None:
    save(PLAN, tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert load(tmp_path / "plan.json") == PLAN
    assert text == to_json(from_json(text))
    assert list(json.loads(text)) == ["version", "meta", "groups", "cuts"]
    lines = [line.strip() for line in text.splitlines()]
    assert '"index": [1, 3],' in lines
    assert '{"tensor": "conv1.weight", "axis": 0, "size": 8},' in lines
    assert '{"name": "conv1", "units": 8, "removed": 2},' in lines
    assert '"include": ["ä*"]' in lines


def test_removed_is_the_union_over_cuts() -> None:
    found = PLAN.removed()
    assert {key: index.tolist() for key, index in found.items()} == {
        ("conv1.weight", 0): [1, 3],
        ("conv2.weight", 1): [1, 3, 5],
        ("y", 2): [5],
    }
    assert all(index.dtype == np.int64 for index in found.values())


def test_a_cut_may_repeat_what_another_cut_removes() -> None:
    plan = Plan((Cut("a", (1, 3), (W,)), Cut("b", (3, 5), (W,))))
    assert plan.removed()["conv1.weight", 0].tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("index", "slots", "message"),
    [
        ((), (W,), "its index is empty"),
        ((1,), (), "it names no slots"),
        ((-1, 2), (W,), "index -1 is negative"),
        ((2, 2), (W,), "index 2 occurs twice"),
        ((3, 1), (W,), r"the index is not sorted \(1 follows 3\)"),
        ((1, 8), (W,), r"index 8 lies outside 'conv1.weight:0' \(length 8\)"),
        ((1,), (W, W), "slot 'conv1.weight:0' occurs twice"),
        ((1,), (SlotRef("w", -1, 8),), "slot 'w:-1' of length 8 cannot be"),
        ((1,), (SlotRef("w", 0, 0),), "slot 'w:0' of length 0 cannot be"),
    ],
)
def test_impossible_cuts(index: tuple[int, ...], slots: tuple[SlotRef, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"^cut of group 'g': {message}"):
        Cut("g", index, slots)


def test_a_plan_leaves_something_of_every_axis() -> None:
    with pytest.raises(UserError, match=r"nothing would be left of 'conv1.weight:0', whose length is 8"):
        Plan((Cut("a", tuple(range(5)), (W,)), Cut("b", (0, 5, 6, 7), (W,))))
    Plan((Cut("a", tuple(range(5)), (W,)), Cut("b", (0, 5, 6), (W,))))
    Plan((Cut("a", tuple(range(5)), (W,)), Cut("b", (0, 1, 2, 3), (W,))))  # nine positions, but five different ones


def test_a_plan_agrees_with_itself_on_lengths() -> None:
    with pytest.raises(UserError, match=r"'conv1.weight:0' has length 8 in one cut and 9 in another"):
        Plan((Cut("a", (1,), (W,)), Cut("b", (2,), (SlotRef("conv1.weight", 0, 9),))))


SIZES: dict[str, tuple[int | str | None, ...] | None] = {
    "conv1.weight": (8, 3),
    "conv2.weight": (4, 8, 3),
    "y": (1, 2, 6),
}


def test_a_plan_that_fits() -> None:
    check(PLAN, SIZES)
    check(PLAN, SIZES | {"conv1.weight": None, "y": ("batch", "n", None)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conv2.weight": (4, 7, 3), "y": (1,)},
            r"'conv2.weight:1' \(group 'conv1'\): the axis has length 7 here and 8",
        ),
        ({"y": (1, 2)}, r"'y:2' \(group 'conv0'\): the tensor has rank 2 and no axis 2"),
    ],
)
def test_the_first_mismatch_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^the plan does not fit this model: {message}"):
        check(PLAN, SIZES | change)


def test_a_missing_tensor_is_named_with_near_ones() -> None:
    sizes = {"conv1.weights": (8, 3)} | {name: shape for name, shape in SIZES.items() if name != "conv1.weight"}
    with pytest.raises(UserError, match=r"'conv1.weight:0' .*no tensor has that name; did you mean 'conv1.weights'"):
        check(PLAN, sizes)


def edited(**changes: Any) -> str:
    """A good file with these places changed: `cuts__0__index` is data["cuts"][0]["index"]; ... drops a key."""
    data = json.loads(to_json(PLAN))
    for place, value in changes.items():
        *path, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        target = data
        for part in path:
            target = target[part]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return json.dumps(data)


BAD = [
    ("", "not valid JSON"),
    ("{", "not valid JSON"),
    ("[" * 100_000, "nested too deeply"),
    ("[]", "the file must be an object, not []"),
    ('{"version": 1, "version": 1, "cuts": []}', "key 'version' occurs twice"),
    ('{"version": 1, "cuts": [NaN]}', "NaN is not a JSON value"),
    ('{"version": 1, "cuts": ' + "9" * 5000 + "}", "not valid JSON"),
    (edited(version=2), "plan format 2 is unknown; this onnxprune reads format 1"),
    (edited(version=True), "version must be a whole number, not True"),
    (edited(version=...), "the file: 'version' is missing"),
    (edited(cuts=...), "the file: 'cuts' is missing"),
    (edited(cuts={}), "cuts must be a list, not {}"),
    (edited(cut=[]), "the file: unknown key 'cut'; did you mean 'cuts'?"),
    (edited(meta=[]), "meta must be an object, not []"),
    (edited(groups__0__units="8"), "groups[0].units must be a whole number, not '8'"),
    (edited(groups__0__removed=9), "groups[0]: 9 of 8 units cannot be removed"),
    (edited(groups__1__inexact=[1]), "groups[1].inexact[0] must be a string, not 1"),
    (edited(cuts__0=3), "cuts[0] must be an object, not 3"),
    (edited(cuts__1__index=...), "cuts[1]: 'index' is missing"),
    (edited(cuts__1__index="5"), "cuts[1].index must be a list, not '5'"),
    (edited(cuts__0__index=[1, 2.0]), "cuts[0].index[1] must be a whole number, not 2.0"),
    (edited(cuts__0__index=[1, True]), "cuts[0].index[1] must be a whole number, not True"),
    (edited(cuts__0__index=[1, 2**70]), "cuts[0].index[1] must be a whole number, not 1180591620717411303424"),
    (edited(cuts__0__index=[-1]), "cuts[0]: cut of group 'conv1': index -1 is negative"),
    (edited(cuts__0__index=[1, 1]), "cuts[0]: cut of group 'conv1': index 1 occurs twice"),
    (edited(cuts__0__index=[8]), "cuts[0]: cut of group 'conv1': index 8 lies outside 'conv1.weight:0' (length 8)"),
    (edited(cuts__0__slots__1__axis=1.5), "cuts[0].slots[1].axis must be a whole number, not 1.5"),
    (edited(cuts__0__slots__1__role=1), "cuts[0].slots[1].role must be a string, not 1"),
    (edited(cuts__0__slots__0__tensor=None), "cuts[0].slots[0].tensor must be a string, not None"),
    (edited(cuts__0__slots__0__tensor="a\nb", cuts__0__index=[9]), "index 9 lies outside 'a\\nb:0'"),
    (edited(cuts__0__index=list(range(8))), "nothing would be left of 'conv1.weight:0'"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message for _, message in BAD])
def test_hostile_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)  # a busy machine is not a failure
@given(st.data())
def test_a_file_with_anything_anywhere_is_a_plan_or_a_user_error(data: st.DataObject) -> None:
    place = data.draw(
        st.sampled_from(
            ["version", "meta", "groups", "cuts", "cuts__0", "cuts__0__index", "cuts__0__slots", "groups__0"]
        )
    )
    text = edited(**{place: data.draw(values)})
    try:
        line = repr(from_json(text))
    except UserError as error:
        line = str(error)
    assert "\n" not in line


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the plan .*No such file"):
        load(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"cannot read the plan .*directory"):
        load(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a plan: it is not UTF-8 text"):
        load(tmp_path / "binary.json")
    with pytest.raises(UserError, match=r"cannot write .*plan\.json': the folder .* does not exist"):
        save(PLAN, tmp_path / "none" / "plan.json")
    with pytest.raises(UserError, match=r"cannot write .*not a regular file"):
        save(PLAN, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["binary.json"]


def test_whoever_reads_while_it_is_written_sees_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save(PLAN, path)
    with path.open(encoding="utf-8") as reader:
        save(Plan(()), path)
        assert from_json(reader.read()) == PLAN
    assert load(path) == Plan(())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    save(PLAN, path)
    before = path.read_bytes()
    monkeypatch.setattr(
        plan_json, "to_json", lambda plan: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UserError, match="No space left on device"):
        save(Plan(()), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
