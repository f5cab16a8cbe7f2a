"""`python -m san_tf.evaluate`: one sentence and exit code 2 for every mistake."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--metrik", "cosine"], "--metric"),
        (["--metric", "manhattan"], "manhattan"),
        (["--protocol", "mars"], "mars"),
        (["--bootstrap", "5"], "bootstrap is 5"),
        (["--level", "95"], "level is 95"),
        (["--far", "2"], "far is 2"),
        (["--repeats", "0"], "repeats is 0"),
        (["--alpha", "-1"], "alpha is -1"),
        (["--query_expansion", "-1"], "query_expansion is -1"),
        (["--rerank", "--k1", "0"], "k1"),
        (["--rerank", "--lambda_value", "2"], "ambda"),
        (["--weights", "1", "2"], "2 numbers for 1 models"),
        (["--against", "one.npz"], "--against"),
        (["--against", "absent_q.npz", "absent_g.npz"], "absent_q.npz"),
        (["--calibrate", "a.json", "--calibration", "b.json"], "exclude each other"),
        (["--calibrate", "a.json", "--query_expansion", "2"], "two embeddings on their own"),
        (["--calibration", "absent.json"], "absent.json"),
        (["--prior", "1"], "prior is 1"),
        (["--protocol", "vehicleid", "--rerank"], "leave --rerank out"),
        (["--protocol", "vehicleid", "--roc"], "leave --roc"),
        (["--protocol", "vehicleid", "--calibrate", "a.json"], "vehicleid"),
        (["--figures", "/proc/figures"], "/proc/figures"),
    ],
)
def test_wrong_flags_end_in_one_sentence(run, flags, named):
    code, out, err = run(*flags)
    assert code == 2
    assert out == ""
    assert named in err
    assert err.count("Error: ") == 1 and err.strip().count("\n") == 0


def test_files_that_are_left_out_or_do_not_fit(run, files, tmp_path):
    bad = dict(np.load(files / "g.npz"))
    np.savez(tmp_path / "wide.npz", **{**bad, "features": np.ones((300, 13), np.float32)})
    bad["features"][7, 3] = np.nan
    np.savez(tmp_path / "nan.npz", **bad)
    np.savez(tmp_path / "strangers.npz", **{**dict(np.load(files / "g.npz")), "pids": bad["pids"] + 1000})
    query = f"--query={files / 'q.npz'}"
    for arguments, named in (
        ([], "--query"),
        ([query], "--gallery is missing"),
        ([query, "--gallery", str(files / "g.npz"), str(files / "q.npz")], "1 query files and 2 gallery"),
        ([query, f"--gallery={tmp_path / 'absent.npz'}"], "absent.npz"),
        ([query, f"--gallery={tmp_path / 'wide.npz'}"], "12 dimensions and gallery features 13"),
        ([query, f"--gallery={tmp_path / 'nan.npz'}"], "NaN or infinity (first in row 7)"),
        ([query, f"--gallery={tmp_path / 'strangers.npz'}"], "No query has a true match"),
    ):
        code, out, err = run(*arguments, sets=False)
        assert (code, out) == (2, ""), named
        assert named in err
        assert err.strip().count("\n") == 0
        assert "Traceback" not in err


@pytest.mark.parametrize(
    "flag", ["--normalize", "--camera_bias_removal", "--query_expansion=3", "--roc", "--rerank"]
)
def test_nan_is_named_whatever_is_done_first(run, files, tmp_path, flag):
    bad = dict(np.load(files / "g.npz"))
    bad["features"][7, 3] = np.inf
    np.savez(tmp_path / "inf.npz", **bad)
    code, out, err = run(f"--query={files / 'q.npz'}", f"--gallery={tmp_path / 'inf.npz'}", flag, sets=False)
    assert (code, out) == (2, "")
    assert "gallery features hold NaN or infinity (first in row 7)" in err and err.strip().count("\n") == 0
