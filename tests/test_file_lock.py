"""A lock of a folder: one process at a time, gone with the process that held it."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from san_tf.errors import UserError
from san_tf.file_lock import file_lock

HOLD = """
import sys, time
from san_tf.file_lock import file_lock
with file_lock(sys.argv[1]) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_another_process_is_kept_out_until_this_one_lets_go_or_dies(tmp_path: Path):
    path = tmp_path / "run" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with file_lock(path) as mine:
            assert not mine
        holder.kill()
        holder.wait()
        with file_lock(path) as mine:
            assert mine, "the lock of a killed process is free"
            with file_lock(path) as again:
                assert not again, "two holders in one process are two holders"
        with file_lock(path, wait=True) as mine:
            assert mine
    finally:
        holder.kill()
        holder.wait()


def test_an_error_inside_frees_it(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / ".lock"):
        _ = 1 / 0
    with file_lock(tmp_path / ".lock") as mine:
        assert mine


def test_a_removed_lock_keeps_everybody_out_who_waited_for_it(tmp_path: Path):
    path, inside, most = tmp_path / ".lock", 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with file_lock(path, wait=True, remove=True) as mine:
                assert mine and path.exists()
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result()
    assert most == 1 and not path.exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/\.lock"), file_lock(tmp_path / "file" / ".lock"):
        pass
