"""Nothing is seen of a file before it is complete, whatever its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.errors import UserError
from onnxprune.replacing import check_writable, replacing, write_text


def test_files_appear_together(tmp_path: Path) -> None:
    targets = [tmp_path / "a", tmp_path / ("é" * 127)]
    targets[0].write_text("old")
    with replacing(targets) as files:
        for file in files:
            file.write(b"new")
        assert targets[0].read_text() == "old"
        assert not targets[1].exists()
        assert len(list(tmp_path.iterdir())) == 3
    assert [path.read_text() for path in targets] == ["new", "new"]
    assert len(list(tmp_path.iterdir())) == 2


def test_an_exception_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing([tmp_path / "a", tmp_path / "b"]):
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="not a regular file"), replacing([tmp_path / "a"]):
        pytest.fail("a folder must be refused before anything is written")
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]


@pytest.mark.parametrize("name", ["x" * 256, "a\0b"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot write .*(too long|null byte)"):
        check_writable(tmp_path / name)


def test_text_of_any_name(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é \ud800\n")
    assert (tmp_path / "a").read_bytes() == "é \\ud800\n".encode()
