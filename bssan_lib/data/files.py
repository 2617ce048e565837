"""Reading arrays and text that others made, and writing files that are there whole or not at all."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bssan_lib.errors import DataError

try:
    import fcntl
except ImportError:  # not on Windows, where two processes preparing one folder are not kept apart
    fcntl = None

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_array(path: Path, rank: int, kinds: str, what: str) -> np.ndarray:
    """A .npy file as a read-only memory map; never unpickles.

    rank: the number of axes; kinds: the allowed numpy dtype kinds, such as "f" or "iu"; what: says in an
    error what the axes are, such as "[images, regions, dimension]". DataError naming the file if anything
    differs.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected an array {what}") from None
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        if "Python objects" in str(error):
            raise DataError(f"{path}: holds Python objects, which are never unpickled; save plain numbers "
                            f"{what} with numpy.save(..., allow_pickle=False)") from None
        raise DataError(f"{path}: not a whole .npy file of numbers ({error}); expected {what}") from None
    if array.dtype.kind not in kinds:
        names = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "bools"}
        expected = " or ".join(names[kind] for kind in kinds)
        raise DataError(f"{path}: expected {expected}, got {array.dtype}")
    if array.ndim != rank:
        raise DataError(f"{path}: expected {rank} axes {what}, got the shape {list(array.shape)}")
    return array


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, ended by "\\n" or "\\r\\n" alone. DataError with the line."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {row}: not UTF-8 text; save the file as UTF-8") from None
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into a DataError; `needed`: in bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            size = f" {needed:,} bytes are needed there." if needed else ""
            raise DataError(f"{folder}: the disk is full ({error.strerror}).{size} Make room and give the "
                            "same command again: it goes on where it stopped") from None
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); give another folder for "
                        "the prepared features") from None


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or leaves the old one, also if the process is killed. OSError as open()."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def replace_array(path: Path, array: np.ndarray) -> None:
    """`replace_bytes` of an array as .npy; for arrays that fit into memory."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def replace_json(path: Path, value: object) -> None:
    """`replace_bytes` of a value as indented JSON."""
    replace_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder and holds it for this process; another one waits. DataError if not writable."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a")
    with file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print(f"{folder}: another process is preparing it; waiting until it ends", file=sys.stderr)
                with writing(folder):
                    fcntl.flock(file, fcntl.LOCK_EX)
        yield  # the lock goes with the file, and with the process however that ends
