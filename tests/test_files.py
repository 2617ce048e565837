"""Writing files: whole or not at all, arrays that grow, and locks that another process respects."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from bssan_lib.errors import DataError
from bssan_lib.files import GrowingArray, GrowingArrays, atomic_write, locked, write_array, write_json, write_text
from bssan_lib.runs import repository_root


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path):
    write_text(tmp_path / "a.txt", "one\r\nétoile\n")
    write_json(tmp_path / "b.json", {"é": [1, None]})
    write_array(tmp_path / "c.npy", np.arange(6, dtype=np.int16).reshape(2, 3).T)
    assert (tmp_path / "a.txt").read_bytes() == "one\r\nétoile\n".encode()
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == {"é": [1, None]}
    assert np.load(tmp_path / "c.npy").tolist() == [[0, 3], [1, 4], [2, 5]]
    assert names(tmp_path) == ["a.txt", "b.json", "c.npy"]


@pytest.mark.parametrize("sync", [True, False])
def test_an_error_while_writing_leaves_the_earlier_file(tmp_path, sync):
    path = tmp_path / "a.txt"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), atomic_write(path, sync) as partial:
        partial.write_text("half")
        assert path.read_text() == "before"
        raise KeyboardInterrupt
    assert path.read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_writes_in_one_stack_are_made_together_or_not_at_all(tmp_path):
    with ExitStack() as together:
        together.enter_context(atomic_write(tmp_path / "1")).write_text("first")
        together.enter_context(atomic_write(tmp_path / "2")).write_text("second")
        assert not (tmp_path / "1").exists()
    with pytest.raises(KeyboardInterrupt), ExitStack() as together:
        together.enter_context(atomic_write(tmp_path / "1")).write_text("other")
        raise KeyboardInterrupt
    assert [(tmp_path / name).read_text() for name in names(tmp_path)] == ["first", "second"]


def test_a_kill_while_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "before")
    code = (
        "import os, sys; from bssan_lib.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as partial:\n    partial.write_text('half'); os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    assert subprocess.run([sys.executable, "-c", code, path], env=environment).returncode == 9
    assert path.read_text() == "before"


ROWS = np.arange(7 * 2 * 3, dtype=np.float32).reshape(7, 2, 3)


def grow(folder, key="a", stop_after=7, save=True):
    """Writes ROWS and their first column by single rows; returns the row at which it began."""
    arrays = [
        GrowingArray(folder / "whole.npy", (7, 2, 3), np.float32),
        GrowingArray(folder / "first.npy", (7, 2), np.float16),
    ]
    with GrowingArrays(folder / "note.json", arrays, lambda done: {"key": key, "done": done}) as growing:
        began = growing.done
        for row in range(began, stop_after):
            growing.append([ROWS[row : row + 1], ROWS[row : row + 1, :, 0]])
            if save and row % 2:
                growing.save()
    return began


def test_a_growing_array_continues_after_the_last_saved_row(tmp_path):
    assert grow(tmp_path, stop_after=5) == 0
    assert (tmp_path / "whole.npy").stat().st_size == 128 + 5 * 2 * 3 * 4  # five rows, four of them saved
    assert grow(tmp_path) == 4
    assert np.array_equal(np.load(tmp_path / "whole.npy"), ROWS)
    first = np.load(tmp_path / "first.npy")
    assert first.dtype == np.float16 and np.array_equal(first, ROWS[:, :, 0])


def test_rows_of_other_data_or_that_are_gone_are_written_again(tmp_path):
    grow(tmp_path, stop_after=4)
    assert grow(tmp_path, key="b", stop_after=4) == 0
    os.truncate(tmp_path / "first.npy", 128 + 3 * 2 * 2)
    assert grow(tmp_path, key="b", stop_after=4) == 0
    (tmp_path / "note.json").write_text('{"key": "b", "done": 8}')
    assert grow(tmp_path, key="b") == 0
    (tmp_path / "note.json").write_text("[]")
    assert grow(tmp_path, key="b") == 0


def test_arrays_that_no_disk_holds_are_refused_before_anything_is_written(tmp_path):
    arrays = [GrowingArray(tmp_path / "a.npy", (10**16, 2), np.float32)]
    with pytest.raises(DataError, match="80,000,000,000,000,000 more bytes are needed there, but the disk has"):
        with GrowingArrays(tmp_path / "note.json", arrays, lambda done: {"done": done}):
            pass
    assert names(tmp_path) == []


def test_a_second_process_waits_for_the_lock(tmp_path):
    code = (
        "import sys; from pathlib import Path; from bssan_lib.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True)"
    )
    lock = tmp_path / "made" / ".lock"
    environment = {**os.environ, "PYTHONPATH": str(repository_root())}
    with locked(lock):
        other = subprocess.Popen(
            [sys.executable, "-c", code, lock],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert f"{lock.parent}: another process is writing there" in other.stderr.readline()
        assert other.poll() is None
    assert other.communicate()[0] == "held\n" and other.returncode == 0
