"""The same features by Apache Beam's direct runner, in several processes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from san_tf.__main__ import main

parquet = pytest.importorskip("pyarrow.parquet")


def _run(*argv) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in argv])
    return int(left.value.code or 0)


def test_without_beam_the_sentence_says_what_to_install(model, crops, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "san_tf.embedding.beam_pipeline", raising=False)
    out = tmp_path / "f.parquet"
    assert _run("embed", crops, "--model", model, "--out", out, "--runner", "DirectRunner") == 2
    assert "Apache Beam is not installed" in capsys.readouterr().err


def test_several_processes_write_the_same_features(model, crops, tmp_path):
    pytest.importorskip("apache_beam")
    table = tmp_path / "list.csv"
    rows = [f"{path},{number},a,b" for number, path in enumerate(sorted(crops.iterdir()))]
    table.write_text("path,pid,note,other\n" + "\n".join(rows))
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    assert _run("embed", table, "--model", model, "--out", here) == 0
    options = ["direct_num_workers=2", "direct_running_mode=multi_processing"]
    by_beam = ["--runner", "DirectRunner", "--runner_options", *options]
    assert _run("embed", table, "--model", model, "--out", there, *by_beam) == 0
    one, other = (parquet.read_table(path).sort_by("path") for path in (here, there))
    assert one.drop_columns(["features"]).equals(other.drop_columns(["features"]))
    features = [np.array(found["features"].to_pylist(), np.float32) for found in (one, other)]
    np.testing.assert_allclose(*features, atol=1e-6)
    lists = [path.with_suffix(".left_out.csv").read_text().splitlines() for path in (here, there)]
    assert sorted(lists[0]) == sorted(lists[1]) and len(lists[0]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("here.left_out.csv", "here.parquet", "list.csv", "there.left_out.csv", "there.parquet")
    ]


def test_a_runner_that_does_not_exist(model, crops, tmp_path, capsys):
    pytest.importorskip("apache_beam")
    out = tmp_path / "f.parquet"
    assert _run("embed", crops, "--model", model, "--out", out, "--runner", "NoRunner") == 2
    assert "no runner 'NoRunner'" in capsys.readouterr().err
