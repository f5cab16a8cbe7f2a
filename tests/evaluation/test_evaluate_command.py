"""`python -m san_tf.evaluate`: the numbers of the peers, and every flag."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from san_tf.evaluation.calibration import Calibration

ROOT = Path(__file__).resolve().parents[2]


def test_the_numbers_of_the_public_implementations(parity, tmp_path):
    # Computed by the reference implementations of CMC, mAP, mINP and of k-reciprocal re-ranking.
    with np.load(parity / "ranking.npz") as reference:
        data = dict(reference)
    for name in ("q", "g"):
        np.savez(
            tmp_path / f"{name}.npz",
            features=data[f"{name}_features"], pids=data[f"{name}_pids"], camids=data[f"{name}_camids"],
        )  # fmt: skip
    command = [sys.executable, "-m", "san_tf.evaluate", "--query", "q.npz", "--gallery", "g.npz"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--json", "--rerank"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("{") and done.stdout.count("\n") == 1
    got = json.loads(done.stdout)
    np.testing.assert_allclose(got["cmc"], data["cmc"], atol=1e-6)
    assert got["mAP"] == pytest.approx(float(data["mAP"]), abs=1e-6)
    assert got["mINP"] == pytest.approx(float(data["mINP"]), abs=1e-6)
    assert got["queries"] - got["queries_with_a_match"] == 3
    # Re-ranked distances tie and differ by rounding; the published code ranks what it rounds.
    np.testing.assert_allclose(got["reranked_cmc"], data["reranked_cmc"], atol=1e-6)
    assert got["reranked_mAP"] == pytest.approx(float(data["reranked_mAP"]), abs=1e-5)


def peer_evaluation(distances, q_pids, g_pids, q_camids, g_camids):
    """The algorithm that the toolkits publish, a query at a time: CMC (50), mAP, mINP."""
    curves, precisions, penalties = [], [], []
    for row, pid, camid in zip(distances, q_pids, q_camids, strict=True):
        order = np.argsort(row, kind="stable")
        kept = order[~((g_pids[order] == pid) & (g_camids[order] == camid))]
        right = (g_pids[kept] == pid).astype(np.float64)
        if not right.any():
            continue
        found = right.cumsum()
        curves.append(np.minimum(found, 1)[:50])
        precisions.append((found / (np.arange(len(right)) + 1) * right).sum() / right.sum())
        last = np.flatnonzero(right)[-1]
        penalties.append(found[last] / (last + 1))
    return np.mean(curves, axis=0), np.mean(precisions), np.mean(penalties)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_numbers_that_the_peers_algorithm_gives(run, files, metric):
    query, gallery = (dict(np.load(files / f"{name}.npz")) for name in ("q", "g"))
    q, g = query["features"].astype(float), gallery["features"].astype(float)
    if metric == "cosine":
        q, g = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (q, g))
    distances = ((q[:, None] - g) ** 2).sum(axis=2)
    cmc, precision, penalty = peer_evaluation(
        distances, query["pids"], gallery["pids"], query["camids"], gallery["camids"]
    )
    code, out, _ = run("--json", "--metric", metric)
    got = json.loads(out)
    assert code == 0
    np.testing.assert_allclose(got["cmc"], cmc, atol=1e-12)
    assert (got["mAP"], got["mINP"]) == pytest.approx((precision, penalty), abs=1e-12)
    # Scaled to length 1, Euclidean distance ranks as cosine does.
    if metric == "cosine":
        scaled = json.loads(run("--json", "--normalize")[1])
        assert scaled["mAP"] == pytest.approx(precision, abs=1e-6)


def test_brackets_in_paths_are_no_styles(run, tmp_path):
    folder = tmp_path / "run[red]"
    code, out, _ = run(f"--figures={folder}")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith(str(folder)) and line.endswith(".png")]


def test_help_and_import_are_quick_and_without_tensorflow():
    code = (
        "import sys\n"
        "from san_tf.evaluation import evaluate_command as evaluate\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try: evaluate.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for flag in ("--query", "--protocol", "--rerank", "--bootstrap", "--against", "--calibrate", "--figures"):
        assert flag in done.stdout


def test_everything_at_once_without_tensorflow(files, tmp_path):
    code = (
        "import sys\n"
        "from san_tf.evaluation import evaluate_command as evaluate\n"
        f"arguments = ['--query', {str(files / 'q.npz')!r}, '--gallery', {str(files / 'g.npz')!r},"
        f" '--rerank', '--roc', '--cameras', '--bootstrap', '200', '--figures', {str(tmp_path)!r}]\n"
        "try: evaluate.main(arguments)\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "heavy = {'tensorflow', 'keras', 'torch'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for text in ("rank-1", "re-ranked", "95 % interval", "equal error rate", "gallery camera", "cmc.png"):
        assert text in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"cmc.png", "roc.png", "cameras.png"}


def test_tables_do_not_wait_for_matplotlib(files):
    code = (
        "import sys\n"
        "from san_tf.evaluation import evaluate_command as evaluate\n"
        f"arguments = ['--query', {str(files / 'q.npz')!r}, '--gallery', {str(files / 'g.npz')!r}]\n"
        "try: evaluate.main(arguments)\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "sys.exit('imported' if 'matplotlib' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_preparation_flags_reach_the_ranking(run):
    plain = json.loads(run("--json")[1])["mAP"]
    for flags in (
        ["--query_expansion", "3"],
        ["--database_augmentation", "3"],
        ["--camera_bias_removal"],
        ["--query_expansion", "3", "--alpha", "0"],
        ["--protocol", "partial"],
        ["--protocol", "cross-camera"],
    ):
        code, out, _ = run("--json", *flags)
        assert code == 0
        assert json.loads(out)["mAP"] != plain, flags
    assert json.loads(run("--json", "--query_expansion", "3")[1])["mAP"] > plain


def test_repeated_protocols_tell_their_spread(run, files):
    got = json.loads(run("--json", "--protocol", "cuhk03", "--repeats", "5")[1])
    assert got["repeats"] == 5
    assert len(got["spread"]["cmc"]) == 50 and got["spread"]["cmc"][0] > 0
    shown = run("--protocol", "vehicleid", "--repeats", "3")[1]
    assert "± over 3 draws" in shown and "380 images" in shown
    alone = run("--json", "--protocol", "vehicleid", f"--query={files / 'g.npz'}", sets=False)
    assert alone[0] == 0 and json.loads(alone[1])["images"] == {"query": 300, "gallery": 0}


def test_roc_cameras_and_intervals_as_json(run):
    got = json.loads(run("--json", "--roc", "--far", "0.01", "0.1", "--cameras", "--bootstrap", "300")[1])
    assert set(got["roc"]["tar_at_far"]) == {"0.01", "0.1"}
    assert 0 < got["roc"]["eer"] < got["roc"]["auc"] < 1
    assert got["cameras"]["mAP"][0][0] is None and got["cameras"]["mAP"][0][1] > 0
    assert got["intervals"]["mAP"]["low"] < got["mAP"] < got["intervals"]["mAP"]["high"]


def test_two_runs_are_compared(run, files):
    second = ["--against", str(files / "worse_q.npz"), str(files / "worse_g.npz")]
    got = json.loads(run("--json", *second)[1])
    assert got["mAP"] - got["against"]["mAP"] == pytest.approx(got["difference"]["mAP"]["mean"])
    assert got["difference"]["mAP"]["low"] > 0
    assert got["difference"]["mAP"]["p_value"] < 0.01
    assert "first minus second" in run(*second)[1]
    code, _, err = run("--against", str(files / "g.npz"), str(files / "q.npz"))
    assert code == 2 and "same queries" in err


def test_several_models_are_put_side_by_side(run, files):
    code, out, _ = run(
        "--json", "--query", str(files / "q.npz"), str(files / "worse_q.npz"),
        "--gallery", str(files / "g.npz"), str(files / "worse_g.npz"), "--weights", "5", "1", sets=False,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["dimensions"] == 24
    assert json.loads(out)["mAP"] > json.loads(run("--json", "--metric", "cosine")[1])["mAP"] - 0.05
    code, _, err = run(
        "--query", str(files / "q.npz"), str(files / "g.npz"),
        "--gallery", str(files / "g.npz"), str(files / "q.npz"), sets=False,
    )  # fmt: skip
    assert code == 2 and "does not describe the images of" in err


def test_calibration_is_written_and_held_against_other_data(run, files, tmp_path):
    path = tmp_path / "calibration.json"
    code, out, _ = run("--metric", "cosine", f"--calibrate={path}", "--prior", "0.1")
    assert code == 0 and "its thresholds" in out
    stored = Calibration.load(path)
    assert (stored.metric, stored.normalized, stored.prior) == ("cosine", True, 0.1)
    checked = run("--metric", "cosine", f"--calibration={path}", f"--figures={tmp_path}")
    assert "expected calibration error" in checked[1]
    assert (tmp_path / "reliability.png").stat().st_size > 5000
    assert (
        json.loads(run("--json", "--metric", "cosine", f"--calibration={path}")[1])["calibration"]["ece"]
        < 0.1
    )
    code, _, err = run(f"--calibration={path}")
    assert code == 2 and "--metric cosine --normalize" in err


@pytest.mark.slow
def test_a_gallery_larger_than_the_memory_allowed(tmp_path):
    """250,000 x 512 (512 MB), mapped: the command's own memory stays below 400 MB beside it."""
    rng = np.random.default_rng(0)
    number = 250_000
    for name, count in (("q", 200), ("g", number)):
        pids = rng.integers(0, 20_000, count)
        np.savez(
            tmp_path / f"{name}.npz", features=rng.standard_normal((count, 512), np.float32),
            pids=pids, camids=rng.integers(0, 6, count),
        )  # fmt: skip
    code = (
        "import resource, sys, threading, time\n"
        "from san_tf.evaluation import evaluate_command as evaluate\n"
        "def own():\n"
        "    lines = open('/proc/self/status')\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "peak = [0]\n"
        "def watch():\n"
        "    while True: peak[0] = max(peak[0], own()); time.sleep(0.01)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "try: evaluate.main(['--query', 'q.npz', '--gallery', 'g.npz'])\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "print('PEAK', peak[0] // 1024)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout.split("PEAK")[1]) < 400
