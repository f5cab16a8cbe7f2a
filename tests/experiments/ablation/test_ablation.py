"""The ablation on the smallest data: one row trained in earnest; order, resume and errors with a stand-in."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml

from san_tf.evaluation.protocols import evaluate_protocol
from san_tf.experiments.ablation import __main__ as ablation
from san_tf.experiments.ablation import row_runs
from san_tf.experiments.ablation.probe import scores_path
from san_tf.experiments.ablation.rows import ROWS
from san_tf.experiments.features import Features
from san_tf.experiments.networks import encoder_of
from san_tf.file_lock import file_lock

TINY = ("--image_size", "64", "32", "--sketch=0", "--validation_identities=0")
Ablate = Callable[..., int]


@pytest.fixture(scope="module")
def ablate(smoke_data: Path, smallest: tuple[str, ...]) -> Ablate:
    """Runs the command on the smallest data and returns its exit code."""

    def run(workdir: Path, *arguments: str) -> int:
        with pytest.raises(SystemExit) as leaving:
            ablation.main([f"--workdir={workdir}", f"--data_dir={smoke_data}", *smallest, *TINY, *arguments])
        return int(leaving.value.code or 0)

    return run


@pytest.fixture(scope="module")
def shared(ablate: Ablate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with what the rows share; the texture generator's work is left out."""
    workdir = tmp_path_factory.mktemp("runs") / "ablation"
    assert ablate(workdir, "--stage", "prepare", "true-textures", "surface-labels") == 0
    return workdir


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str | None]]:
    """Stands in for all that needs a network; lists row, seed and folder of textures of each training."""
    calls: list[tuple[str, int, str | None]] = []

    def train(experiment, records, method, textures, generator):
        calls.append((method, experiment.recipe.seed, None if textures is None else textures.name))

    def describe(experiment, encoder, target):
        draw = np.random.default_rng(experiment.recipe.seed).standard_normal
        sides = target.query, target.gallery
        query, gallery = (draw((len(records), 4)) for records in sides)
        return Features.of(sides[0], query, sides[1], gallery)

    def probe(experiment, method, labelled):
        scores_path(experiment).write_text('{"cells": {}, "place_alone": {}, "sides": {}}')

    monkeypatch.setattr(row_runs, "train_method", train)
    monkeypatch.setattr(row_runs.evaluate, "encoder_for", lambda *arguments: None)
    monkeypatch.setattr(row_runs.evaluate, "describe", describe)
    monkeypatch.setattr(row_runs.probe, "probe", probe)
    return calls


def test_a_row_trained_in_earnest_beside_the_histogram(shared: Path, ablate: Ablate):
    assert ablate(shared, "--stage", "runs", "report", "--rows", "oracle", "histogram", "--seeds=4") == 0
    run = shared / "oracle" / "seed_4"
    for name in ("recipe.yaml", "metrics.csv", "results.json", "query_scores.npz", "probe.json", "probe.npz",
                 "weights/oracle_encoder.weights.h5", "weights/oracle_decoder.weights.h5"):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (recipe["seed"], recipe["data"]["pit_per_batch"]) == (4, 0)
    results = json.loads((run / "results.json").read_text())
    with np.load(run / "query_scores.npz") as scores:
        assert np.nanmean(scores["mAP"]) == pytest.approx(results["rows"][0]["mAP"])
        for name, result in results["conditions"].items():
            if result:
                assert np.isfinite(scores[f"{name}/mAP"]).sum() == result["queries"]
                assert np.nanmean(scores[f"{name}/mAP"]) == pytest.approx(result["mAP"])
    probe = json.loads((run / "probe.json").read_text())
    assert 0 <= probe["cells"]["body_accuracy"] <= 1 and 0 < probe["place_alone"]["accuracy"] < 1
    with (shared / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["seed"]) for line in lines] == [("histogram", ""), ("oracle", "4")]
    assert float(lines[1]["mAP"]) == pytest.approx(results["rows"][0]["mAP"], abs=1e-6)
    assert "oracle" in (shared / "summary.md").read_text()
    assert (shared / "figures" / "body_parts.png").stat().st_size > 0


def test_a_stopped_ablation_goes_on_with_what_is_left(
    shared: Path, ablate: Ablate, trained, monkeypatch: pytest.MonkeyPatch, capsys
):
    chosen = ("--stage", "runs", "--rows", "baseline", "san_basic", "--seeds", "0", "1")
    pretend = row_runs.train_method

    def stopped(experiment, records, method, textures, generator):
        if len(trained) == 1:
            raise KeyboardInterrupt
        pretend(experiment, records, method, textures, generator)

    monkeypatch.setattr(row_runs, "train_method", stopped)
    assert ablate(shared, *chosen) == 130
    assert trained == [("baseline", 0, None)]
    assert not (shared / "san_basic" / "seed_0" / "results.json").exists()
    capsys.readouterr()
    monkeypatch.setattr(row_runs, "train_method", pretend)
    assert ablate(shared, *chosen) == 0
    # Seeds outside, rows inside; what was done is not done again; the textures are the generator's.
    pseudo = "pseudo_textures"
    assert trained[1:] == [("san_basic", 0, pseudo), ("baseline", 1, None), ("san_basic", 1, pseudo)]
    assert capsys.readouterr().out.count("done already") == 1
    before = (shared / "baseline" / "seed_0" / "results.json").stat().st_mtime_ns
    assert ablate(shared, *chosen) == 0
    assert len(trained) == 4 and capsys.readouterr().out.count("done already") == 4
    assert (shared / "baseline" / "seed_0" / "results.json").stat().st_mtime_ns == before
    # A step may be done anew where there is a trained run.
    again = ("--stage=evaluate", "--rows", "baseline", "oracle", "--seeds=0")
    assert ablate(shared, *again) == 0
    assert "nothing to repeat" in capsys.readouterr().out and len(trained) == 4
    assert (shared / "baseline" / "seed_0" / "results.json").stat().st_mtime_ns > before
    # With another recipe the runs are refused, and stay as they are.
    assert ablate(shared, *chosen, "--lambda_triplet=3") == 2
    assert "lambda_triplet" in capsys.readouterr().err
    # How embeddings are compared is not a reason to train again.
    assert ablate(shared, *chosen, "--metric=cosine") == 2
    assert "metric" in capsys.readouterr().err and len(trained) == 4


def test_encoders_start_from_the_same_weights_in_every_row_and_others_with_another_seed():
    encoders = [
        encoder_of(row.recipe(ablation.RECIPE, seed), 5).get_weights()
        for row, seed in ((ROWS[1], 3), (ROWS[-1], 3), (ROWS[1], 4))
    ]
    for first, second in zip(encoders[0], encoders[1], strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((first != third).any() for first, third in zip(encoders[0], encoders[2], strict=True))


def test_a_run_that_another_process_is_at_is_left_alone(shared: Path, ablate: Ablate, trained, capsys):
    with file_lock(shared / "baseline" / "seed_7" / ".lock") as mine:
        assert mine
        assert ablate(shared, "--stage=runs", "--rows=baseline", "--seeds=7") == 0
    assert not trained and "another process works on it" in capsys.readouterr().out
    assert ablate(shared, "--stage=runs", "--rows=baseline", "--seeds=7") == 0
    assert trained == [("baseline", 7, None)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rows=sam"], "'sam'"),
        (["--seeds", "1", "1"], "--seeds"),
        (["--seeds", "-1"], "--seeds"),
        (["--threads=-1"], "--threads"),
        (["--stage=train"], "'train'"),
        (["--stage=report"], "No run"),
        (["--stage=true-textures", "--dataset=market1501"], "market1501"),
        (["--stage=runs", "--rows=san_basic", "--seeds=0"], "pseudo_textures"),
        (["--stage=runs", "--rows=oracle", "--seeds=0"], "true_textures"),
    ],
)
def test_mistakes_are_one_sentence(ablate: Ablate, tmp_path: Path, capsys, arguments, named):
    assert ablate(tmp_path / "run", *arguments) == 2
    message = capsys.readouterr().err
    assert named in message and message.startswith("Error: ") and message.count("\n") == 1


def test_photographs_have_no_oracle_and_no_probe_and_are_broken_down_by_camera(
    ablate: Ablate, tmp_path: Path, trained, capsys
):
    folder = tmp_path / "people"
    rng = np.random.default_rng(0)
    for split, people in (("train", (1, 2)), ("query", (3, 4)), ("gallery", (3, 4))):
        (folder / split).mkdir(parents=True)
        for person, camera in itertools.product(people, (1, 2)):
            picture = rng.integers(0, 255, (64, 32, 3), np.uint8)
            PIL.Image.fromarray(picture).save(folder / split / f"{person}_c{camera}_{split}.png")
    photographs = (f"--data_dir={tmp_path / 'data'}", "--dataset=custom/names", f"--folder={folder}")
    rows = ("--rows", "histogram", "baseline", "--seeds", "0", "1")
    assert ablate(tmp_path / "run", *photographs, *rows, "--stage", "prepare", "runs", "report") == 0, (
        capsys.readouterr().err
    )
    assert trained == [("baseline", 0, None), ("baseline", 1, None)]
    text = (tmp_path / "run" / "summary.md").read_text()
    assert "other cameras alone" in text and "linear probe" not in text
    lines = list(csv.DictReader((tmp_path / "run" / "results.csv").open()))
    assert [line["seed"] for line in lines] == ["", "0", "1"]
    assert (tmp_path / "run" / "figures" / "runs.png").is_file()
    assert ablate(tmp_path / "run", *photographs, "--stage=report") == 0, "rows need not be named"
    assert ablate(tmp_path / "run", *photographs, "--stage=runs", "--rows=oracle") == 2
    assert "custom/names has not" in capsys.readouterr().err


def test_a_breakdown_by_camera_by_hand():
    # Person 1 asks from camera 1, person 2 from camera 2. Their gallery: each under both cameras.
    features = Features(
        np.array([[0.0], [10.0]], np.float32), np.array([1, 2]), np.array([1, 2]),
        np.array([[0.0], [4.0], [1.0], [14.0]], np.float32), np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]),
    )  # fmt: skip
    query, gallery = features.sets()
    every = evaluate_protocol(query, gallery).per_query
    # Query 0 at 0: its match at 4 comes after 1 (person 2, camera 1): precision 1/2. Query 10: person 2's
    # match at 1 is 9 away, after 4 (6 away) and before 0 (10 away): 1/2; its own camera has nobody else.
    np.testing.assert_allclose(every.mAP, [1 / 2, 1 / 2])
    found = row_runs.by_camera(features, every, "euclidean")
    # From the other camera alone: query 0 sees 4 (right) and 14; query 10 sees 0 (10 away) and 1 (right).
    np.testing.assert_allclose(found["other cameras alone"].mAP, [1, 1])
    np.testing.assert_allclose(found["asked by 1"].mAP, [1 / 2, np.nan])
    np.testing.assert_allclose(found["asked by 2"].mAP, [np.nan, 1 / 2])
    unknown = dataclasses.replace(features, gallery_camids=np.array([1, 2, 1, -1]))
    assert row_runs.by_camera(unknown, every, "euclidean") == {}


def test_a_probe_without_labels_says_so(ablate: Ablate, tmp_path: Path, trained, capsys):
    assert ablate(tmp_path, "--stage=runs", "--rows=baseline", "--seeds=0") == 2
    assert "surface-labels" in capsys.readouterr().err
    assert (tmp_path / "baseline" / "seed_0" / "results.json").is_file(), "what could be done was done"


def test_help_lists_rows_seeds_and_threads(capsys):
    with pytest.raises(SystemExit) as leaving:
        ablation.main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert all(flag in text for flag in ("--rows", "--seeds", "--threads", "--lambda_reconstruction"))
    assert len({row.name for row in ROWS}) == len(ROWS) == 9
