"""Options that several commands share."""

import os

import psutil
import pytest

from bssan_lib.commands.options import warn_if_busy


@pytest.mark.parametrize(("load", "busy"), [(0.2, False), (0.69, False), (0.71, True), (5, True)])
def test_a_busy_machine_is_told_of_before_long_work(monkeypatch, capsys, load, busy):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (3 * load, 0, 0))
    warn_if_busy()
    assert capsys.readouterr().err.startswith("note: this machine is busy") == busy
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # whoever chose a number of threads knows
    warn_if_busy()
    assert not capsys.readouterr().err
