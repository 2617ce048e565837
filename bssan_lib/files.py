"""Writing files so that a reader never sees one that is half written, and only where a file can be."""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout

from bssan_lib.errors import DataError
from bssan_lib.reading import read_json

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)  # Windows knows no EDQUOT
_HEADER = 128  # bytes to which numpy pads the header of an array of few axes


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path | str) -> Path:
    """The path, at which a file may be written: nothing is there yet, or a file. DataError for anything else.

    A device or a pipe would be replaced, and what is written to a link would replace it or end up elsewhere.
    """
    path = Path(path)
    try:
        os.lstat(_partial(path))  # its name is longer
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: nothing can be written there ({_reason(error)}); give another name") from None
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return path
    if not stat.S_ISREG(mode):
        found = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
        raise DataError(f"{path}: expected the name of a file to write, got {found}; give another name")
    return path


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def disk_errors(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Raises a DataError for a full disk or a folder that cannot be written. needed: in bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            size = f" {needed:,} bytes are needed there." if needed else ""
            raise DataError(
                f"{folder}: the disk is full ({error.strerror}).{size} Make room and give the same command again: it "
                "continues where it stopped"
            ) from None
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); give another folder") from None


@contextmanager
def atomic_write(path: Path | str, sync: bool = True) -> Iterator[Path]:
    """Yields a path beside `path`; what the block writes there replaces `path` at its end, in one step.

    After an error or a kill an earlier file at `path` is unchanged. sync: wait until the bytes are on the disk, so that
    a power cut loses nothing either. Several writes in one contextlib.ExitStack replace their files once all are
    written, the last one entered first. Raises OSError, and DataError as `check_target`.
    """
    path = check_target(path)
    partial = _partial(path)
    try:
        yield partial
        if sync:
            with open(partial, "r+b") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):  # its folder may not be one
            partial.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes a UTF-8 file by `atomic_write`, with its line ends as they are. DataError for half a character."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: nothing was written, since {error.object[error.start]!r} is not a whole character; look for it in the "
            "names and captions"
        ) from None
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Writes a value as indented JSON by `atomic_write`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_array(path: Path | str, array: np.ndarray) -> None:
    """Writes an array as .npy by `atomic_write`."""
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Holds a lock file, whose folder is made; another process waits. DataError if it cannot be written."""
    with disk_errors(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        try:
            held.acquire(blocking=False)
        except Timeout:
            print(f"{lock.parent}: another process is working there; waiting until it ends", file=sys.stderr)
            held.acquire()
    try:
        yield
    finally:
        held.release()


class GrowingArray:
    """A .npy file that grows on disk by whole rows, and can be continued at any row that is there.

    shape: [N, ...] of the whole array. Little-endian; at most as many axes as fit into a header of 128 bytes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.number]):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype).newbyteorder("<")

    def size(self, rows: int) -> int:
        """Bytes of the file with so many rows."""
        return _HEADER + rows * self.dtype.itemsize * math.prod(self.shape[1:])

    def open(self, done: int) -> IO[bytes]:
        """The file with its header and `done` rows, at the place of the next row."""
        file = open(check_target(self.path), "r+b" if done else "w+b")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(self.size(done))
        file.seek(0, os.SEEK_END)
        return file


class GrowingArrays:
    """Arrays of N rows each that grow together, and a note beside them of the rows that are safe on the disk.

        with GrowingArrays(note, arrays, describe) as growing:
            for start in range(growing.done, n, batch):
                growing.append(blocks)
                growing.save()

    describe: the content of the note after so many rows; rows of an earlier call are kept where its note is the same.
    Raises DataError for a disk that is full or cannot be written.
    """

    def __init__(self, note: Path, arrays: Sequence[GrowingArray], describe: Callable[[int], dict[str, Any]]):
        self.note, self.arrays, self.describe = note, arrays, describe
        self.rows = arrays[0].shape[0]
        self.needed = self._size(self.rows)
        self.done = self._rows_done()
        self.files: list[IO[bytes]] = []

    def __enter__(self) -> "GrowingArrays":
        folder = self.note.parent
        missing, free = self.needed - self._size(self.done), shutil.disk_usage(folder).free
        if missing > free:
            raise DataError(
                f"{folder}: {missing:,} more bytes are needed there, but the disk has {free:,} left; make room or give "
                "another folder"
            )
        with disk_errors(folder, self.needed):
            for array in self.arrays:
                self.files.append(array.open(self.done))
        return self

    def append(self, blocks: Sequence[np.ndarray]) -> None:
        """Adds the same number of rows to each array."""
        with disk_errors(self.note.parent, self.needed):
            for array, file, block in zip(self.arrays, self.files, blocks, strict=True):
                file.write(np.ascontiguousarray(block, array.dtype).tobytes())
        self.done += len(blocks[0])

    def save(self) -> None:
        """Waits until all rows are on the disk, and only then notes how many they are."""
        with disk_errors(self.note.parent, self.needed):
            for file in self.files:
                file.flush()
                os.fsync(file.fileno())
            write_json(self.note, self.describe(self.done))

    def __exit__(self, *exception: object) -> None:
        for file in self.files:
            with suppress(OSError):  # rows that count were saved before; on a full disk closing fails once more
                file.close()

    def _size(self, rows: int) -> int:
        return sum(array.size(rows) for array in self.arrays)

    def _rows_done(self) -> int:
        """How many rows of every array can be kept; 0 where the note describes other data."""
        try:
            stored = read_json(self.note)
            done = int(stored["done"])
            same = 0 <= done <= self.rows and stored == self.describe(done)
            return done if same and all(a.path.stat().st_size >= a.size(done) for a in self.arrays) else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
