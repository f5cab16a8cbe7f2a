"""A build of the size of Market-1501: its cost, and what an interruption leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

from san_tf.layouts.benchmark_preparation import open_benchmark

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def test_a_minute_of_two_cores_and_a_gigabyte_are_enough(tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/builders.py", "--kinds", "folder", "zip", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    for cost in json.loads(out.read_text())["builds"].values():
        # Processor time, because other programs may have the cores; it bounds the clock on an idle machine.
        assert cost["processor_seconds"] < 60 and cost["peak_mb"] < 1000


def test_an_interrupted_build_leaves_nothing_to_be_read_and_goes_on(tmp_path):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import builders

    builders.draw(tmp_path / "downloads" / builders.FOLDER)

    # What a shell starts in the background is deaf to SIGINT, and so are its children.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{builders.BUILD}"

    def command(data: str) -> list[str]:
        return [sys.executable, "-c", code, str(tmp_path / "downloads"), str(tmp_path / data), ""]

    place = tmp_path / "data" / "market1501" / "standard"
    parts = place / "unfinished_1.0.0"
    done = 0
    for end in (signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        build = subprocess.Popen(command("data"), start_new_session=True)
        deadline = time.monotonic() + 120
        while len(list(parts.glob("[!.]*.npz"))) < done + 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert build.poll() is None
        os.kill(build.pid, end)
        assert build.wait(timeout=60) != 0
        assert not (place / "1.0.0").exists()
        before, done = done, len(list(parts.glob("[!.]*.npz")))
        assert done >= before + 20
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("[!.]*.npz")}
    watched = subprocess.Popen(command("data"))
    while watched.poll() is None:
        for name, written in kept.items():
            with contextlib.suppress(FileNotFoundError):  # the folder is removed at the end
                assert (parts / name).stat().st_mtime_ns == written
        time.sleep(0.2)
    assert watched.returncode == 0
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == ["1.0.0"]
    subprocess.run(command("undisturbed"), check=True)
    for split in ("train", "query", "gallery"):
        resumed, other = (_records(tmp_path / data, split) for data in ("data", "undisturbed"))
        # Not the files' bytes: protocol buffers put the fields of a record in another order in each process.
        assert all(one == another for one, another in itertools.zip_longest(resumed, other))
    info = json.loads((place / "1.0.0" / "dataset_info.json").read_text())
    shards = {split["name"]: sum(map(int, split["shardLengths"])) for split in info["splits"]}
    assert shards == {"train": 12_936, "query": 3_368, "gallery": 19_732}


def _records(data: Path, split: str) -> Iterator[dict[str, Any]]:
    builder = open_benchmark("market1501", data)
    decoders = {"image": tfds.decode.SkipDecoding()}
    return iter(builder.as_dataset(split=split, decoders=decoders).as_numpy_iterator())
