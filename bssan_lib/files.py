"""Writing files atomically: a reader never finds a file that is half written."""

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

_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)  # Windows has no EDQUOT
_HEADER = 128  # bytes of the header of an array with few axes, which numpy pads


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path | str) -> Path:
    """Returns the path if a file may be written there: nothing exists yet, or a file. Raises DataError otherwise.

    Writing would replace a device or a pipe; it would also replace a link, or write to another place.
    """
    path = Path(path)
    try:
        os.lstat(_partial(path))  # its name is longer
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a path that can be written to ({_reason(error)}); give another name"
        ) from None
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
    """Raises DataError if the disk is full or the folder cannot be written. needed: bytes, for the message."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            size = f" {needed:,} bytes are needed there." if needed else ""
            raise DataError(
                f"{folder}: the disk is full ({error.strerror}).{size} Free some space and run the same command "
                "again: it continues where it stopped"
            ) from None
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); give another folder") from None


@contextmanager
def atomic_write(path: Path | str, sync: bool = True) -> Iterator[Path]:
    """Yields a path beside `path`; what the block writes there replaces `path` at its end, in one step.

    After an error or a kill, an earlier file at `path` is unchanged. sync: wait until the bytes are on the disk, so
    that a power failure loses nothing. Several writes in one contextlib.ExitStack replace their files when all are
    written; the one entered last comes first. Raises OSError, and DataError as `check_target` does.
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
        with suppress(OSError):  # the parent may not be a folder
            partial.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes a UTF-8 file by `atomic_write`, without changing line ends. Raises DataError for half a character."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: nothing was written, because {error.object[error.start]!r} is not a complete character; look for it "
            "in the names and captions"
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
    """Holds a lock file and creates its folder. Other processes wait. Raises DataError if it cannot be written."""
    with disk_errors(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        try:
            held.acquire(blocking=False)
        except Timeout:
            print(f"{lock.parent}: another process is writing there; waiting until it ends", file=sys.stderr)
            held.acquire()
    try:
        yield
    finally:
        held.release()


class GrowingArray:
    """A .npy file that grows on disk row by row. Writing can continue after any row that is stored.

    shape: [N, ...] of the complete array. Little-endian. The header must fit into 128 bytes, so arrays have few axes.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: type[np.number]):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype).newbyteorder("<")

    def size(self, rows: int) -> int:
        """Bytes of the file with `rows` rows."""
        return _HEADER + rows * self.dtype.itemsize * math.prod(self.shape[1:])

    def open(self, done: int) -> IO[bytes]:
        """Opens the file with its header and `done` rows, positioned at the next row."""
        file = open(check_target(self.path), "r+b" if done else "w+b")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(self.size(done))
        file.seek(0, os.SEEK_END)
        return file


class GrowingArrays:
    """Arrays of N rows that grow together, and a file beside them that counts the rows safely on the disk.

        with GrowingArrays(note, arrays, describe) as growing:
            for start in range(growing.done, n, batch):
                growing.append(blocks)
                growing.save()

    note: path of that file. describe: a function from a number of rows to the content of the note. Rows of an earlier
    call are kept if its note has the same content. Raises DataError if the disk is full or cannot be written.
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
                f"{folder}: {missing:,} more bytes are needed there, but the disk has {free:,} left; free some space "
                "or choose another folder"
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
        """Waits until all rows are on the disk, then writes their number into the note."""
        with disk_errors(self.note.parent, self.needed):
            for file in self.files:
                file.flush()
                os.fsync(file.fileno())
            write_json(self.note, self.describe(self.done))

    def __exit__(self, *exception: object) -> None:
        for file in self.files:
            with suppress(OSError):  # saved rows are safe already; closing fails again on a full disk
                file.close()

    def _size(self, rows: int) -> int:
        return sum(array.size(rows) for array in self.arrays)

    def _rows_done(self) -> int:
        """How many rows of every array can be kept; 0 if the note describes other data."""
        try:
            stored = read_json(self.note)
            done = int(stored["done"])
            same = 0 <= done <= self.rows and stored == self.describe(done)
            return done if same and all(a.path.stat().st_size >= a.size(done) for a in self.arrays) else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
