"""Outputs go only where a file can be: never over a device, a pipe, a folder or a link."""

import os
import subprocess
import sys

import pytest

from bssan_lib.files import locked
from bssan_lib.runs import open_run
from tests.hostile.conftest import contents, evaluate


@pytest.fixture
def targets(place):
    """Names under which no file can be put, in the working directory, with what the message says of each."""
    (place / "elsewhere").write_text("keep")
    (place / "link.json").symlink_to(place / "elsewhere")
    (place / "link.pdf").symlink_to(place / "elsewhere")
    for ending in ("json", "pdf"):
        os.mkfifo(place / f"pipe.{ending}")
        (place / f"folder.{ending}").mkdir()


COMMANDS = {
    "json": evaluate("--out"),
    "pdf": ["figure", "boxes", "--image", "table/images/1.png", "--caption", "a dog", "--out"],
}
SAID = {"link": "link", "pipe": "pipe", "folder": "folder", "n" * 250: "File name too long"}


@pytest.mark.parametrize("ending", COMMANDS)
@pytest.mark.parametrize("name", SAID)
def test_no_file_is_written_where_there_is_none(targets, refused, ending, name):
    refused([*COMMANDS[ending], f"{name}.{ending}"], SAID[name])


@pytest.mark.parametrize("device", ["/dev/null", "/dev/full"])
@pytest.mark.parametrize(
    "command", [evaluate("--out"), ["compare", "run", "--out"], ["train", "--config", "scenes", "--out"]]
)
def test_devices_stay_devices(place, refused, command, device):
    before = os.lstat(device).st_mode
    refused([*command, device], device)
    assert os.lstat(device).st_mode == before


@pytest.mark.parametrize("name", ["pipe", "broken"])
@pytest.mark.parametrize(
    "command",
    [
        ["compare", "run", "--out"],
        ["index", "--checkpoint", "run", "--data", "features", "--split", "test", "--out"],
        ["train", "--config", "scenes", "--out"],
        ["add-global", "--checkpoint", "run", "--data", "features", "--out"],
        ["notebooks"],
    ],
)
def test_no_folder_is_made_over_a_pipe_or_a_link(place, refused, command, name):
    os.mkfifo(place / "pipe")
    (place / "broken").symlink_to(place / "nowhere")
    refused([*command, name], name)


@pytest.mark.parametrize("inner", ["checkpoints", "figures", "notebooks"])
def test_a_run_writes_through_no_link(place, refused, inner):
    (place / "new").mkdir()
    (place / "other").mkdir()
    (place / "new" / inner).symlink_to(place / "other")
    refused(["train", "--config", "scenes", "--out", "new"], inner, "a link", sizes_only=True)
    assert not list((place / "other").iterdir()) and not (place / "new" / "config.yaml").exists()


def test_a_lock_that_is_a_link_is_not_followed(place):
    (place / "precious").write_text("keep")
    (place / "prepared").mkdir()
    (place / "prepared" / ".lock").symlink_to(place / "precious")
    with pytest.raises(Exception, match="lock|link|symbolic"), locked(place / "prepared" / ".lock"):
        pass
    assert (place / "precious").read_text() == "keep"


def test_a_folder_that_another_process_holds(place, refused):
    code = (
        "import sys; from bssan_lib.runs import open_run; open_run('run'); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        refused(["train", "--config", "run/config.yaml", "--out", "run"], f"in use by process {holder.pid}")
        holder.stdin.close()
    open_run(place / "run").close()


@pytest.mark.parametrize("output, code, said", [("closed", 141, ""), ("/dev/full", 2, "bssan: standard output")])
def test_an_output_that_takes_nothing(place, output, code, said):
    """As `bssan compare run | head -0` and `bssan compare run > /dev/full`."""
    before = contents(place)
    if output == "closed":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(output, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "bssan_lib", "check-data", "features"], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr and contents(place).keys() == before.keys()
