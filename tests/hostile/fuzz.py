"""make fuzz: damaged files of every format that is read, given to what reads them. Seeded and bounded; no part of CI.

    python -m tests.hostile.fuzz --inputs 2000 --seed 1

Reports each input that ends in a traceback, takes more than SECONDS, or finds a file changed, and writes it to --out.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from PIL import Image

from bssan_lib.commands.cli import main
from bssan_lib.config import Config, load_config
from bssan_lib.data.images import open_image
from bssan_lib.errors import BssanError
from bssan_lib.series.check_data import check_folder
from tests.hostile.conftest import contents, evaluate, make_place

SECONDS = 10  # of the processor
PIECES = [
    *(
        b"NaN",
        b"1e999",
        b"-1",
        b"null",
        b"[",
        b"{",
        b"]",
        b"}",
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\t",
        b"\x00",
        b"\xff",
        b"\\ud83d",
    ),
    *(b"9" * 5000, b"a" * 5000, b"*a", b"&a", b"#", b"../", b"\x1b[2J", b"\xef\xbb\xbf", b"true", b"{}", b"[]", b"0"),
]
VALUES = [None, True, -1, 0, 2.5, 1e300, 10**30, "", "x", "\ud83d", [], {}, [[]], {"a": []}, "../x", "a" * 5000]


def make_formats(place: Path) -> dict[str, list[tuple[Path, list[str] | str]]]:
    """{format: [(file, what reads it: arguments of a command, or a folder or file for one of the functions below)]}."""
    rows = [(f"{number}.png", f"a picture of number {number}") for number in range(12)]
    splits = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    karpathy = [
        {"filename": name, "split": split, "sentences": [{"raw": text, "tokens": text.split()}], "sentids": [0]}
        for (name, text), split in zip(rows, splits)
    ]
    coco = {
        "images": [{"id": number, "file_name": name} for number, (name, _) in enumerate(rows)],
        "annotations": [{"id": n, "image_id": n, "caption": text} for n, (_, text) in enumerate(rows)],
    }
    table = "image,caption\n" + "".join(f"{name},{text}\n" for name, text in rows)
    files = {
        "CSV": ("captions.csv", table),
        "TSV": ("captions.tsv", table.replace(",", "\t")),
        "captions.txt": ("captions.txt", table),
        "JSONL": ("captions.jsonl", "".join(json.dumps({"image": a, "caption": b}) + "\n" for a, b in rows)),
        "Karpathy's JSON": ("dataset_x.json", json.dumps({"dataset": "x", "images": karpathy})),
        "COCO JSON": ("annotations/captions_val2014.json", json.dumps(coco)),
    }
    formats: dict[str, list[tuple[Path, list[str] | str]]] = {}
    for name, (file, text) in files.items():
        folder = place / f"{name} data"
        shutil.copytree(place / "table" / "images", folder / "images")
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
        formats[name] = [(folder / file, str(folder))]
    shutil.copytree(place / "features", place / "precomp", ignore=shutil.ignore_patterns("meta.json"))
    measured = evaluate()
    shutil.copytree(place / "run", place / "other")  # its features come from an unknown backbone
    config = place / "other" / "checkpoints" / "best" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"backbone": None}))
    plain = [{"features": "precomp", "run": "other"}.get(part, part) for part in measured]
    formats["precomp"] = [(path, plain) for path in sorted((place / "precomp").glob("test_*"))]
    formats["prepared"] = [(path, measured) for path in sorted((place / "features").glob("test_*"))]
    formats["prepared"] += [(place / "features" / "meta.json", measured)] * 3
    formats["checkpoint"] = [(path, measured) for path in sorted((place / "run/checkpoints/best").iterdir())]
    formats["metrics and ranks"] = [
        (place / "run" / name, ["compare", "run", "--bootstrap", "5"])
        for name in ("metrics.json", "metrics.ranks.npz", "config.yaml")
    ]
    shutil.copy(place / "run" / "config.yaml", place / "c.yaml")
    formats["YAML"] = [(place / "c.yaml", "c.yaml")]
    search = ["search", "index", "a red square", "--shortlist", "10"]
    formats["index"] = [(path, search) for path in sorted((place / "index").iterdir())]
    formats["index"] += [(place / "index" / name, search) for name in ("meta.json", "image_codes.npy")] * 2
    formats["pictures"] = []
    for ending in ("png", "jpg", "gif", "webp", "bmp", "tif"):
        Image.effect_noise((40, 32), 60).convert("RGB").save(place / f"p.{ending}")
        formats["pictures"].append((place / f"p.{ending}", f"p.{ending}"))
    return formats


def read(what: list[str] | str) -> int:
    """The exit code of a command, or of the function that reads a folder, a configuration or a picture."""
    if isinstance(what, list):
        return main(what)
    try:
        if Path(what).is_dir():
            source = "karpathy" if "Karpathy" in what else "flickr8k" if "captions.txt" in what else "table"
            config = Config()
            config.data.source, config.data.folder = source, what
            check_folder(Path(what), config)
        elif what.endswith(".yaml"):
            load_config(what)
        else:
            open_image(what)
        return 0
    except BssanError:
        return 2


def damage(content: bytes, chance: random.Random) -> bytes:
    """Another content: a JSON value replaced, bytes changed, cut, doubled, moved or put in."""
    if content[:1] in b"{[" and chance.random() < 0.6:
        try:
            return damage_json(content, chance)
        except ValueError:
            pass
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        first = chance.choice((0, 128, len(data))) if chance.random() < 0.3 else len(data)
        start = chance.randrange(min(len(data), first or 1) + 1)
        stop = min(len(data), start + chance.choice((1, 1, 4, 30, 1000)))
        kind = chance.randrange(6)
        if kind == 0:
            data[start:stop] = bytes(chance.randrange(256) for _ in range(stop - start))
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            del data[start:]
        elif kind == 3:
            data[start:start] = data[start:stop] * chance.choice((1, 1, 50))
        else:
            data[start : stop if kind == 4 else start] = chance.choice(PIECES)
    return bytes(data)


def damage_json(content: bytes, chance: random.Random) -> bytes:
    first, *rest = content.decode().split("\n")
    value = json.loads(content) if first.strip() in "[{" or not any(rest) else json.loads(first)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(value)
    node, key = chance.choice(places)
    if chance.random() < 0.2:
        del node[key]
    else:
        node[key] = chance.choice([*VALUES, value]) if chance.random() < 0.9 else chance.choice(places)[0]
    whole = json.dumps(value)
    return (whole if first.strip() in "[{" or not any(rest) else "\n".join([whole, *rest])).encode()


def try_one(place: Path, path: Path, what, content: bytes) -> str | None:
    """What is wrong with how a damaged file ends; None if nothing is."""
    good = path.read_bytes()
    path.write_bytes(content)
    before, start = contents(place), time.process_time()
    signal.alarm(6 * SECONDS)  # another program may have the processor
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = read(what)
        problem = None if code in (0, 2) else f"exit code {code}"
    except BaseException:
        problem = traceback.format_exc()
    finally:
        signal.alarm(0)
    seconds = time.process_time() - start
    if problem is None and seconds > SECONDS:
        problem = f"{seconds:.0f} s"
    after = {name: state for name, state in contents(place).items() if ".bssan_checked" not in name}
    if problem is None and after != {name: state for name, state in before.items() if ".bssan_checked" not in name}:
        problem = f"changed: {[name for name in {**before, **after} if before.get(name) != after.get(name)]}"
    path.write_bytes(good)
    return problem


def _stop_fuzzing(signum, frame):
    raise TimeoutError("no end")


def fuzz(inputs: int, seed: int, out: Path) -> int:
    """Tries so many inputs; returns how many had something wrong."""
    chance, found, counts = random.Random(seed), collections.Counter(), collections.Counter()
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    out = out.absolute()
    make_place(place)
    os.chdir(place)
    main(evaluate())  # which imports what takes long
    signal.signal(signal.SIGALRM, _stop_fuzzing)
    warnings.simplefilter("ignore")
    formats = make_formats(place)
    for parts in formats.values():  # what is imported or cached is so before anything is timed
        for path, what in parts:
            assert try_one(place, path, what, path.read_bytes()) is None, path
    for number in range(inputs):
        name = list(formats)[number % len(formats)]
        path, what = chance.choice(formats[name])
        content = damage(path.read_bytes(), chance)
        counts[name] += 1
        problem = try_one(place, path, what, content)
        if problem:
            found[name, problem.strip().splitlines()[-1][:150]] += 1
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{seed}-{number}-{path.name}").write_bytes(content)
            (out / f"{seed}-{number}.txt").write_text(f"{path}\n{what}\n{problem}")
            print(f"input {number}, {path.relative_to(place)}: {problem.strip().splitlines()[-1]}", flush=True)
    shutil.rmtree(place)
    print(f"{inputs} inputs, seed {seed}: {sum(found.values())} with something wrong")
    print("\n".join(f"  {name:20s} {count:5d}" for name, count in counts.items()))
    return sum(found.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Damaged files of every format that is read.")
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="where inputs that fail are kept")
    options = parser.parse_args()
    raise SystemExit(min(1, fuzz(options.inputs, options.seed, options.out)))
