"""`san-tf calibrate`: pairs from answers, identities and tracks; thresholds that hold for other people."""

import json

import numpy as np
import pytest

from san_tf.__main__ import main
from san_tf.errors import UserError
from san_tf.evaluation import calibrate_command
from san_tf.evaluation.calibrate_command import answered_pairs, known_pairs
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.calibration_fit import design_effect, fit_pairs
from san_tf.evaluation.operating_points import far_upper_bound


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    """Fewer pairs, which take less time."""
    monkeypatch.setattr(calibrate_command, "_MOST_PAIRS", 20_000)


pa = pytest.importorskip("pyarrow", reason="san-tf[parquet] is not installed")


def crops(seed, people, number=6, cameras=2, dimensions=24, noise=0.7):
    """Embeddings of people, some of whom look alike, so that false accepts come in bunches."""
    rng = np.random.default_rng(seed)
    kinds = rng.standard_normal((max(people // 5, 1), dimensions))
    centres = kinds[rng.integers(0, len(kinds), people)] + 0.8 * rng.standard_normal((people, dimensions))
    pids = np.repeat(np.arange(1, people + 1), number)
    features = centres[pids - 1] + noise * rng.standard_normal((len(pids), dimensions))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features.astype(np.float32), pids, np.tile(np.arange(number) % cameras, people)


def table(path, features, **columns):
    from pyarrow import parquet

    names = [f"{number}.jpg" for number in range(len(features))]
    columns = {"path": names, "features": list(features)} | {k: list(v) for k, v in columns.items()}
    parquet.write_table(pa.table(columns), path)
    return path


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["calibrate", *map(str, arguments)])
    return left.value.code


def distances_of(features, pairs):
    return 1 - (features[pairs.first] * features[pairs.second]).sum(axis=1)


def test_the_design_effect_is_that_of_a_naive_loop():
    rng = np.random.default_rng(0)
    people = np.array([rng.choice(12, 2, replace=False) for _ in range(60)])
    # Person 3 is taken for everybody.
    accepted = (people == 3).any(axis=1) | (rng.random(60) < 0.1)
    residual = accepted - accepted.mean()
    variance = 0.0
    for i in range(60):
        for j in range(60):
            if set(people[i]) & set(people[j]):
                variance += residual[i] * residual[j]
    independent = accepted.mean() * (1 - accepted.mean()) * 60
    assert design_effect(accepted, people) == pytest.approx(variance / independent) and variance > independent
    # Pairs without a common person are independent.
    assert design_effect(np.array([True, False] * 10), np.arange(40).reshape(20, 2)) == pytest.approx(1.0)
    assert design_effect(np.zeros(5, bool), np.zeros((5, 2))) == 1.0


def test_independent_pairs_have_the_bound_of_clopper_and_pearson():
    rng = np.random.default_rng(1)
    same, different = rng.normal(0.3, 0.1, 200), rng.normal(0.8, 0.1, 3000)
    people = np.arange(6400).reshape(3200, 2)
    fitted = fit_pairs(
        np.concatenate([same, different]), np.arange(3200) < 200, people, prior=0.01, wished=(1e-2, 1e-4)
    )
    point, beyond = fitted.operating_points
    assert point.false_accepts == np.count_nonzero(different <= point.threshold)
    assert (
        point.far_bound == pytest.approx(far_upper_bound(point.false_accepts, 3000))
        and point.far_bound <= 1e-2
    )
    # One more false accept would be too many, or no same-person pair lies before it.
    following = np.sort(different)[point.false_accepts]
    assert (same[same > point.threshold] > following).all() or far_upper_bound(
        point.false_accepts + 1, 3000
    ) > 1e-2
    assert beyond.threshold is None and not beyond.supported and "cannot support" in beyond.note
    assert fitted.probability(0.2) > 0.5 > fitted.probability(0.7)


def test_promised_rates_hold_for_people_who_were_not_seen():
    kept, promised = [], 0
    for seed in range(6):
        features, pids, camids = crops(seed, 120)
        pairs = known_pairs("t", {"path": pids, "pids": pids, "camids": camids})
        fitted = fit_pairs(distances_of(features, pairs), pairs.same, pairs.people, wished=(0.1, 0.03))
        others, other_pids, other_camids = crops(seed + 100, 400)
        test = known_pairs("t", {"path": other_pids, "pids": other_pids, "camids": other_camids}, 1)
        distances = distances_of(others, test)[~test.same]
        for point in fitted.operating_points:
            if point.threshold is not None:
                promised += 1
                kept.append(np.mean(distances <= point.threshold) / point.far)
    assert promised >= 6  # it dares to promise something
    assert np.mean(np.array(kept) <= 1.0) >= 0.8 and max(kept) < 2.0
    assert np.median(kept) > 0.2  # and is not timid without need


def test_pairs_across_cameras_are_preferred_and_one_camera_is_told():
    _, pids, camids = crops(3, 20)
    pairs = known_pairs("t", {"path": pids, "pids": pids, "camids": camids})
    assert (camids[pairs.first] != camids[pairs.second]).all() and "between two cameras" in pairs.caveat
    assert ((pids[pairs.first] == pids[pairs.second]) == pairs.same).all()
    assert np.count_nonzero(pairs.same) == 20 * 9  # three crops by each of two cameras
    alone = known_pairs("t", {"path": pids, "pids": pids, "camids": np.zeros(len(pids), int)})
    assert "by one camera" in alone.caveat and np.count_nonzero(alone.same) == 20 * 15


def test_tracks_and_frames_tell_who_is_who():
    columns = {
        "path": list("abcdef"),
        "track": [1, 1, 2, 2, 1, None],
        "frame": [10, 11, 10, 11, 10, 10],
        "camera": ["door", "door", "door", "door", "hall", "door"],
    }
    pairs = known_pairs("t", columns)
    found = {
        (min(i, j), max(i, j)): bool(same)
        for i, j, same in zip(pairs.first, pairs.second, pairs.same, strict=True)
    }
    # Track 1 of the hall is another one than that of the door.
    assert found == {(0, 1): True, (2, 3): True, (0, 2): False, (1, 3): False}
    assert "by one camera" in pairs.caveat


def test_answers_are_read_and_contradictions_told(tmp_path):
    columns = {"path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]}
    path = tmp_path / "pairs.csv"
    path.write_text("first,second,same\na.jpg,b.jpg,yes\nb.jpg,c.jpg,1\nd.jpg,a.jpg,No\na.jpg,b.jpg,yes\n")
    pairs = answered_pairs(str(path), columns)
    assert pairs.same.tolist() == [True, True, False] and "not drawn at random" in pairs.caveat
    assert len(set(pairs.people[pairs.same].ravel())) == 1 and pairs.people[2, 0] != pairs.people[2, 1]
    for rows, sentence in (
        ("a.jpg,x.jpg,yes", "line 2: the table has no crop 'x.jpg'"),
        ("a.jpg,b.jpg,perhaps", "same is 'perhaps'; write yes, no or cannot tell"),
        ("a.jpg,a.jpg,yes", "both crops are a.jpg"),
        ("a.jpg,b.jpg,yes\nb.jpg,a.jpg,no", "line 3: the pair has both answers"),
        ("a.jpg,b.jpg,yes\nb.jpg,c.jpg,yes\na.jpg,c.jpg,no", "contradict each other"),
    ):
        path.write_text(f"first,second,same\n{rows}\n")
        with pytest.raises(UserError, match=sentence):
            answered_pairs(str(path), columns)
    path.write_text("one,two\n")
    with pytest.raises(UserError, match="must have the columns first, second and same"):
        answered_pairs(str(path), columns)


def test_names_in_a_file_of_answers_are_the_ends_of_paths_and_never_guessed(tmp_path):
    path = tmp_path / "pairs.csv"

    def meant(paths, *pairs, **more):
        path.write_text("first,second,same\n" + "".join(f"{one},{other},yes\n" for one, other in pairs))
        found = answered_pairs(str(path), {"path": paths}, **more)
        return list(zip(found.first.tolist(), found.second.tolist(), strict=True))

    crops = ["in/a.jpg", "in/door/a.jpg", "in/door/b.jpg", "in/xa.jpg"]
    assert meant(crops, ("in/a.jpg", "in/door/b.jpg")) == [(0, 2)]
    # Only below in/ are both of them.
    assert meant(crops, ("a.jpg", "door/b.jpg")) == [(0, 2)]
    assert meant(crops, ("a.jpg", "b.jpg")) == [(1, 2)]
    # From two folders, each name by itself.
    assert meant(["in/a.jpg", "more/b.jpg"], ("a.jpg", "more/b.jpg")) == [(0, 1)]
    # A whole path is meant before the end of another.
    assert meant(["a.jpg", "in/a.jpg", "b.jpg", "in/b.jpg"], ("a.jpg", "b.jpg")) == [(0, 2)]
    with pytest.raises(
        UserError, match=r"line 2: 'a.jpg' may be in/a.jpg or out/a.jpg; write the whole path"
    ):
        meant(["in/a.jpg", "in/b.jpg", "out/a.jpg", "out/b.jpg"], ("a.jpg", "b.jpg"))
    with pytest.raises(UserError, match="line 2: the table has no crop 'jpg'"):
        meant(crops, ("jpg", "a.jpg"))
    with pytest.raises(UserError, match=r"both crops are in/a\.jpg"):
        meant(["in/a.jpg", "in/b.jpg"], ("a.jpg", "in/a.jpg"))
    # A copy is answered for by the one that was kept, and a damaged crop by none.
    copies = {"in/c.jpg": "in/a.jpg", "in/bad.jpg": None}
    more = ["in/a.jpg", "in/b.jpg"]
    assert meant(more, ("c.jpg", "b.jpg"), ("bad.jpg", "b.jpg"), ("a.jpg", "c.jpg"), stand_ins=copies) == [
        (0, 1)
    ]
    path.write_text("first,second,same\na.jpg,c.jpg,no\n")
    with pytest.raises(UserError, match=r"a\.jpg and c\.jpg are copies, not two people"):
        answered_pairs(str(path), {"path": more}, stand_ins=copies)
    path.write_text("first,second,same\na.jpg,b.jpg,no\nb.jpg,c.jpg,yes\n")
    with pytest.raises(UserError, match="line 3: the pair has both answers"):
        answered_pairs(str(path), {"path": more}, stand_ins=copies)


def test_the_command_writes_what_it_tells(tmp_path, capsys):
    features, pids, camids = crops(5, 150)
    source = table(tmp_path / "f.parquet", features, pids=pids, camids=camids)
    out = tmp_path / "calibration.json"
    assert run(source, "--out", out, "--far", 0.1, 0.000001) == 0
    told = capsys.readouterr().out
    assert (
        "150 people" in told
        and "not promised" in told
        and "cannot support a false accept rate of 1e-06" in told
    )
    stored = Calibration.load(out)
    point = stored.operating_points[0]
    assert f"{1 - point.threshold:.3f}" in told and stored.prior == 0.001
    scores = np.array([0.95, 0.1])
    np.testing.assert_allclose(stored.of_scores(scores), stored.probability(1 - scores))
    euclidean = Calibration("platt", "euclidean", True, intercept=3.0, slope=-4.0)
    np.testing.assert_allclose(euclidean.of_scores(scores, 0.1), euclidean.probability(2 - 2 * scores, 0.1))
    with pytest.raises(UserError, match="not scaled to length 1"):
        Calibration("platt", "euclidean", False, intercept=3.0, slope=-4.0).of_scores(scores)
    assert run(source, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["people"] == 150


@pytest.mark.parametrize(
    ("columns", "arguments", "sentence"),
    [
        ({}, (), "has neither identities (pid) nor tracks"),
        ({"pids": [1, 2] * 15}, ("--far", "2"), "--far is 2.0"),
        ({"pids": [1, 2] * 15}, ("--prior", "0"), "prior is 0.0"),
        ({"pids": [1] * 30}, (), "and 0 show two people"),
        ({"pids": list(range(1, 31))}, (), "and 0 show one person"),
        ({"pids": [1, 2] * 15}, ("--pairs", "nowhere.csv"), "nowhere.csv cannot be read"),
    ],
)
def test_mistakes_end_in_one_sentence(columns, arguments, sentence, tmp_path, capsys):
    features, _, _ = crops(6, 5)
    source = table(tmp_path / "f.parquet", features, **columns)
    assert run(source, "--out", tmp_path / "out.json", *arguments) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1 and not (tmp_path / "out.json").exists()


def test_files_that_are_no_tables_are_told(tmp_path, capsys):
    (tmp_path / "f.parquet").write_bytes(b"nothing")
    assert run(tmp_path / "f.parquet", "--out", tmp_path / "o.json") == 2
    assert "is not a Parquet file" in capsys.readouterr().err
    assert run(tmp_path / "g.parquet", "--out", tmp_path / "o.json") == 2
    assert "There is no file" in capsys.readouterr().err
