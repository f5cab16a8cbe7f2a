"""Rounds of clustering and training: they help, are seen when they do not, and resume to the same weights."""

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import san_tf.adaptation
from san_tf import UserError
from san_tf.adaptation import rounds
from san_tf.adaptation.clustering import Answers, ClusterSettings
from san_tf.adaptation.rounds import AdaptationSettings, adapt
from san_tf.data.augmentation import Augmentation
from san_tf.data.records import Records
from san_tf.training.callbacks.saving import SaveCheckpoints

SETTINGS = AdaptationSettings(
    rounds=2,
    epochs=2,
    clustering=ClusterSettings(k1=6, fewest=3),
    clusters_per_batch=4,
    learning_rate=3e-3,
    augmentation=Augmentation(flip=0.5, translation=0.5, erasing=0.0),
)


class Killed(BaseException):
    """A process that ends without warning."""


def test_a_killed_adaptation_resumes_to_the_same_weights(records, small_encoder, tmp_path, monkeypatch):
    whole = small_encoder()
    told = []
    result = adapt(whole, records, tmp_path / "whole", SETTINGS, report=told.append)
    assert [state["round"] for state in result.states] == [0, 1, 2] == [state["round"] for state in told]
    assert result.states[0]["change"] is None and 0 < result.states[1]["change"] <= 1
    for state in result.states:
        assert state["clusters"] > 1 and state["people"] == 10 and 0 < state["score"] <= 1
    stored = json.loads((tmp_path / "whole" / "adaptation.json").read_text())
    assert stored["kept"] == result.kept == int(np.argmax([s["score"] for s in result.states]))
    assert stored["states"] == list(result.states)

    # Killed after a checkpoint within a round, then between training and clustering, then after clustering.
    saves = 0
    save = SaveCheckpoints.save

    def save_and_die(self, *arguments):
        nonlocal saves
        save(self, *arguments)
        saves += 1
        if saves == 3:
            raise Killed

    again = small_encoder()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(SaveCheckpoints, "save", save_and_die)
        adapt(again, records, tmp_path / "cut", SETTINGS, save_every_steps=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):

        def die_looking(*arguments):
            raise Killed

        patch.setattr(rounds, "_embedded", die_looking)  # the start was looked at already
        adapt(small_encoder(), records, tmp_path / "cut", SETTINGS)

    def die(entry):
        if entry["round"] == 1:
            raise Killed

    with pytest.raises(Killed):
        adapt(small_encoder(), records, tmp_path / "cut", SETTINGS, report=die)
    resumed = small_encoder()
    last = adapt(resumed, records, tmp_path / "cut", SETTINGS)
    for ours, theirs in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    without_time = [
        [{k: v for k, v in state.items() if k != "seconds"} for state in one.states] for one in (last, result)
    ]
    assert without_time[0] == without_time[1]

    # A finished one is only read; another encoder, other crops or settings are refused.
    finished = small_encoder()
    assert adapt(finished, records, tmp_path / "cut", SETTINGS).kept == result.kept
    np.testing.assert_array_equal(finished.get_weights()[0], whole.get_weights()[0])
    with pytest.raises(UserError, match="of another encoder; name another folder"):
        adapt(small_encoder(2), records, tmp_path / "cut", SETTINGS)
    some = records.select(np.arange(40))
    with pytest.raises(UserError, match="to other crops; name another folder"):
        adapt(small_encoder(), some, tmp_path / "cut", SETTINGS)
    other = AdaptationSettings(**{**vars(SETTINGS), "learning_rate": 1e-3})
    with pytest.raises(UserError, match=r"begun with learning_rate 0\.003, not 0\.001"):
        adapt(small_encoder(), records, tmp_path / "cut", other)


def test_a_run_that_makes_things_worse_returns_the_start(records, small_encoder, tmp_path):
    encoder = small_encoder()
    start = encoder.get_weights()
    rough = AdaptationSettings(**{**vars(SETTINGS), "learning_rate": 300.0, "rounds": 1})
    result = adapt(encoder, records, tmp_path / "run", rough)
    assert result.kept == 0 and result.states[1]["score"] < result.states[0]["score"]
    for ours, theirs in zip(encoder.get_weights(), start, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_crops_that_cannot_be_learnt_from_are_told(records, small_encoder, tmp_path):
    with pytest.raises(UserError, match="at least 32 crops, and there are 5"):
        adapt(small_encoder(), records.select(np.arange(5)), tmp_path / "few")
    with pytest.raises(UserError, match="at least 32 crops, and there are 1"):
        rounds.first_clusters(small_encoder(), records.select(np.arange(1)), SETTINGS)
    alone = AdaptationSettings(clustering=ClusterSettings(fewest=70))
    with pytest.raises(UserError, match="None of 80 crops has enough near others"):
        adapt(small_encoder(), records, tmp_path / "alone", alone)
    one = Records.from_columns([records.images[0]] * 40, [1] * 40)
    with pytest.raises(UserError, match="All 40 crops form one cluster"):
        adapt(small_encoder(), one, tmp_path / "one")
    # Nothing was trained, so the folder is free for the next attempt.
    assert not (tmp_path / "alone" / "adaptation.json").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"clusters_per_batch": 1}, "at least two clusters"),
        ({"momentum": 1.0}, "momentum in"),
        ({"temperature": float("nan")}, "must be positive"),
        ({"patience": -1}, "must not be negative"),
    ],
)
def test_impossible_settings_are_told(values, sentence):
    with pytest.raises(UserError, match=sentence):
        AdaptationSettings(**values)


def test_the_example_of_the_guide(records, small_encoder, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
    (example,) = (
        block
        for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        if "AdaptationSettings" in block
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crops").mkdir()
    for number, (content, camera) in enumerate(zip(records.images, records.camids, strict=True)):
        name = f"{records.pids[number]:04d}_c{camera + 1}s1_{number:06d}_00.png"
        (tmp_path / "crops" / name).write_bytes(content)
    # A preset of a small network would take a minute to train.
    monkeypatch.setattr(san_tf.adaptation, "trainable_encoder", lambda preset: small_encoder())
    room: dict = {}
    exec(example, room)
    kept, scores = capsys.readouterr().out.splitlines()[-1].split(" ", 1)
    assert int(kept) == room["result"].kept and len(json.loads(scores)) == 3
    assert (tmp_path / "adapted" / "run" / "adaptation.json").is_file()


def test_a_full_disk_ends_in_a_sentence_and_leaves_the_last_good_round(
    records, small_encoder, tmp_path, monkeypatch
):
    settings = dataclasses.replace(SETTINGS, rounds=1, epochs=1)
    replaced, done = os.replace, []

    def fill(entry):
        done.append(entry["round"])

    # The disk is full after the start: of the round's weights, then of its clusters, then of the report.
    for what in ("encoder.safetensors", "clusters.npz", "adaptation.json"):
        done.clear()

        def no_space(source, target, what=what, **options):
            if Path(target).name == what and done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            replaced(source, target, **options)

        with monkeypatch.context() as patch, pytest.raises(UserError, match="The disk is full while") as told:
            patch.setattr(os, "replace", no_space)
            adapt(small_encoder(), records, tmp_path, settings, report=fill)
        assert done == [0] and what in str(told.value) and "\n" not in str(told.value)
        stored = json.loads((tmp_path / "adaptation.json").read_text())
        assert [state["round"] for state in stored["states"]] == [0]
        assert (tmp_path / "rounds" / "00" / "encoder.safetensors").is_file()
    # With space again, the same call goes on.
    assert len(adapt(small_encoder(), records, tmp_path, settings).states) == 2


def test_rounds_obey_answers_and_are_not_resumed_with_others(records, small_encoder, tmp_path):
    settings = dataclasses.replace(SETTINGS, rounds=1, epochs=1)
    told = Answers(np.array([0, 0, 3]), np.array([8, 1, 11]), np.array([False, True, False]))
    adapt(small_encoder(), records, tmp_path, settings, answers=told)
    for number in ("00", "01"):
        labels = np.load(tmp_path / "rounds" / number / "clusters.npz")["labels"]
        assert labels[0] == labels[1] != -1 and labels[0] != labels[8]
    with pytest.raises(UserError, match="holds an adaptation with other answers"):
        adapt(small_encoder(), records, tmp_path, settings)
