"""Nothing is seen of a file before it is complete, whatever its name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from onnxprune.errors import UserError
from onnxprune.files.replacing import check_writable, replacing, write_text


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


WRITER = """
import sys, time
import os
import subprocess
import sys
import time
from pathlib import Path
from onnxprune.files.replacing import replacing
with replacing([Path("m.onnx"), Path("m.onnx.data")]) as files:
    files[0].write(b"half")
    files[0].flush()
    print("begun", flush=True)
    time.sleep(60)
"""


def touch(folder: Path, when: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (when, when))


@pytest.mark.skipif(sys.platform == "win32", reason="what is open cannot be removed there")
def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        touch(tmp_path, 0)
        write_text(tmp_path / "m.onnx", "another")
        assert len(list(tmp_path.iterdir())) == 3, "those of a writer that lives are left alone"
        writer.kill()
    (tmp_path / ".m.onnx.0123abcd.old").write_text("perhaps all that is left")
    (tmp_path / ".other.onnx.0123abcd.tmp").write_text("of another file")
    touch(tmp_path, time.time())
    write_text(tmp_path / "m.onnx", "again")
    assert len(list(tmp_path.iterdir())) == 5, "what is young may be about to be locked"
    touch(tmp_path, 0)
    with replacing([tmp_path / "m.onnx", tmp_path / "m.onnx.data"]) as files:
        files[0].write(b"new")
    assert {path.name for path in tmp_path.iterdir()} == {
        *("m.onnx", "m.onnx.data", ".m.onnx.0123abcd.old", ".other.onnx.0123abcd.tmp")
    }
    assert (tmp_path / "m.onnx").read_text() == "new"
