"""Safe reading of files from others: regular files of limited size, JSON and YAML of plain values, arrays, lines.

`read_bytes`, `read_json` and `read_yaml` raise OSError if a file cannot be read, and ValueError if its content is wrong.
The error contains only the reason; the caller adds what it expected. Nothing is ever unpickled.
"""

import errno
import json
import math
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from bssan_lib.errors import DataError

LARGEST_FILE = 2**30  # bytes of a file that is loaded into memory; MSCOCO's captions have 144 million
LARGEST_JSON = 2**26  # bytes of a file of settings, numbers or descriptions
LARGEST_YAML = 2**17
LONGEST_LINE = 100_000  # bytes
DEEPEST = 20  # nested levels of YAML


def one_line(error: Exception) -> str:
    """The message of an error on one line of at most 300 characters."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(getattr(error, "strerror", None) or error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        text = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg'].lower()}"
    return " ".join(text.split())[:300]


def check_file(path: Path | str, most: int | None = None) -> None:
    """Raises OSError unless a path is a regular file (a pipe may never end), ValueError if it exceeds `most` bytes."""
    state = Path(path).stat()
    if not stat.S_ISREG(state.st_mode):
        found = "a folder" if stat.S_ISDIR(state.st_mode) else "a pipe or a device"
        raise OSError(errno.EINVAL, f"expected a file, got {found}", str(path))
    if most is not None and state.st_size > most:
        raise ValueError(f"expected at most {most:,} bytes, got {state.st_size:,}")


def read_bytes(path: Path | str, most: int = LARGEST_FILE) -> bytes:
    """The content of a file. Raises as `check_file` does."""
    check_file(path, most)
    return Path(path).read_bytes()


def read_start(path: Path) -> str:
    """The first 4,096 bytes of a file as text; "" where there is no file that can be read."""
    try:
        check_file(path)
        with open(path, "rb") as file:
            return file.read(4096).decode("utf-8", "replace")
    except OSError:
        return ""


def parse_json(text: str | bytes, hook: Callable[[dict], dict] | None = None) -> Any:
    """The value of a JSON text. Raises ValueError if it is damaged, too deep, or has NaN, infinity or half a character."""
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        return _whole(text, json.loads(text, object_hook=hook, parse_constant=_number, parse_float=_number))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole(text: str, value: Any) -> Any:
    """Returns the value; raises ValueError for half a character in it, such as the escape \\ud83d alone."""
    if re.search(r"\\[uU]", text):
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{error.object[error.start]!r} is not a complete character") from None
    return value


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:60]} is not a finite number")
    return value


def read_json(path: Path | str, most: int = LARGEST_JSON, hook: Callable[[dict], dict] | None = None) -> Any:
    """The value of a JSON file of at most `most` bytes. Raises as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, most), hook)


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases, because a short text with aliases can be a huge value, and deep nesting."""

    level = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise ValueError("contains an alias (*name); write the value itself")
        self.level += 1
        if self.level > DEEPEST:
            raise ValueError("nested too deeply")
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for other text, an alias, deep nesting or half a character."""
    try:
        return _whole(text, yaml.load(text, _PlainLoader))
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(one_line(error) or "nested too deeply") from None


def read_yaml(path: Path | str) -> Any:
    """The value of a YAML file. Raises as `read_bytes` and `parse_yaml` do."""
    return parse_yaml(read_bytes(path, LARGEST_YAML).decode("utf-8-sig"))


def open_array(path: Path, rank: int, kinds: str, what: str) -> np.memmap:
    """A .npy file as a read-only memory map; never unpickles.

    rank: the number of axes. kinds: the allowed numpy dtype kinds, such as "f" or "iu". what: the names of the axes for
    error messages, such as "[images, regions, dimension]". Raises DataError with the file if anything differs.
    """
    try:
        check_file(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected an array {what}") from None
    except Exception as error:  # a damaged header can fail in any way
        if "Python objects" in str(error):
            raise DataError(
                f"{path}: holds Python objects, which are never unpickled; save plain numbers "
                f"{what} with numpy.save(..., allow_pickle=False)"
            ) from None
        raise DataError(f"{path}: not a whole .npy file of numbers ({error}); expected {what}") from None
    if array.dtype.kind not in kinds:
        names = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "bools"}
        expected = " or ".join(names[kind] for kind in kinds)
        raise DataError(f"{path}: expected {expected}, got {array.dtype}")
    if array.ndim != rank:
        raise DataError(f"{path}: expected {rank} axes {what}, got the shape {list(array.shape)}")
    return array


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file; only "\\n" and "\\r\\n" end a line. Raises DataError with the line."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    return [_line(path, number, line) for number, line in enumerate(lines, start=1)]


def _line(path: Path, number: int, line: bytes) -> str:
    if len(line) > LONGEST_LINE:
        raise DataError(
            f"{path}, line {number}: expected at most {LONGEST_LINE:,} bytes, got {len(line):,}; cut the line"
        )
    try:
        return line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: not UTF-8 text; save the file as UTF-8") from None
