"""The same person across cameras: who is joined, who cannot be, and what a gallery keeps of it."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest

from san_tf import Track, UserError, open_gallery
from san_tf.embedding.track_encoder import save_tracks
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.operating_points import OperatingPoint
from san_tf.retrieval import CrossCamera, Entry, Filter, GalleryInfo, similarity_threshold, tracks_command

pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
SIZE = 8


def turned(person: int, degrees: float = 0.0, towards: int = 7) -> np.ndarray:
    """A person's direction, turned towards another one: its cosine to the person's is that of the angle."""
    row = np.zeros(SIZE, np.float32)
    row[person], row[towards] = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return row


def track(camera: str, number: int, first: float, last: float, row: np.ndarray) -> Track:
    return Track(camera, number, first, last, 10, 3, 1.0, row)


@pytest.fixture
def gallery(tmp_path):
    with open_gallery(tmp_path / "people.gallery", create=GalleryInfo(SIZE, "m", "f")) as opened:
        yield opened


def pids(found) -> list[int]:
    return [one.pid for one in found]


def test_people_come_back_and_strangers_are_new(gallery):
    people = CrossCamera(gallery, 0.8)
    first = people.add(
        [
            track("door", 1, 0, 5, turned(0)),
            track("door", 2, 1, 6, turned(1)),
            track("hall", 1, 9, 12, turned(0, 30)),
        ]
    )  # cos 30 = 0.866
    assert pids(first) == [0, 1, 0] and [one.known for one in first] == [False, False, True]
    assert first[2].similarity == pytest.approx(np.cos(np.deg2rad(30)), abs=1e-6)
    assert first[1].similarity is None
    # The mean similarity to both tracks of person 0 counts: (cos 50 + cos 20) / 2 = 0.79.
    (turned_away,) = people.add([track("door", 3, 20, 22, turned(0, 50))])
    assert turned_away.pid == 2 and not turned_away.known
    (back,) = people.add([track("door", 4, 30, 33, turned(1, 10))])
    assert (back.pid, back.known) == (1, True)
    assert back.similarity == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)
    entries = {entry.key: entry for entry in gallery.entries()}
    assert entries["door#4@30.000+3.000"].pid == 1 and entries["door#4@30.000+3.000"].time == 30.0
    assert gallery.info.camera_name(entries["hall#1@9.000+3.000"].camera) == "hall"


def test_nobody_is_at_two_places_at_once(gallery):
    people = CrossCamera(gallery, 0.8, travel={("door", "yard"): 10.0}, overlapping=[("door", "window")])
    row = turned(0)
    assert pids(people.add([track("door", 1, 0, 5, row)])) == [0]
    for camera, first, last, pid in (
        ("door", 5, 6, 1),  # the same camera still saw the person
        ("hall", 4, 9, 2),  # elsewhere at that time
        ("yard", 14, 15, 3),  # too far away
        ("window", 3, 4, 0),  # sees the same place
    ):
        (found,) = people.add([track(camera, 2, first, last, row)])
        assert found.pid == pid, camera
        gallery.delete([found.track.key], for_good=False)
    for number, (camera, first, last) in enumerate((("door", 5.5, 6), ("hall", 6.5, 9), ("yard", 16, 19))):
        (found,) = people.add([track(camera, 10 + number, first, last, row)])
        assert found.pid == 0, camera


def test_two_who_are_seen_together_are_two_even_if_each_is_like_a_third(gallery):
    people = CrossCamera(gallery, 0.8)
    # The third is more similar to the second; once they are joined, the first cannot join them.
    found = people.add(
        [
            track("door", 1, 0, 5, turned(0, 0)),
            track("door", 2, 1, 6, turned(0, 20)),
            track("hall", 1, 9, 12, turned(0, 15)),
        ]
    )
    assert pids(found) == [1, 0, 0] or pids(found) == [0, 1, 1]


def test_the_order_of_tracks_does_not_matter_within_a_call(tmp_path):
    rng = np.random.default_rng(0)
    tracks = []
    for number in range(24):
        row = turned(number % 4).astype(np.float64) + 0.2 * rng.standard_normal(SIZE)
        row = (row / np.linalg.norm(row)).astype(np.float32)
        camera = ("door", "hall", "yard")[int(rng.integers(3))]
        tracks.append(track(camera, number, 10.0 * number, 10.0 * number + float(rng.uniform(1, 9)), row))
    groups = set()
    for turn in range(3):
        some = [tracks[place] for place in np.random.default_rng(turn).permutation(24)]
        with open_gallery(tmp_path / f"{turn}.gallery", create=GalleryInfo(SIZE)) as gallery:
            found = CrossCamera(gallery, 0.6).add(some)
        together = {
            frozenset(one.track.key for one in group)
            for _, group in itertools.groupby(sorted(found, key=lambda one: one.pid), key=lambda one: one.pid)
        }
        groups.add(frozenset(together))
        assert len(together) == 4
    assert len(groups) == 1


def test_restored_from_the_gallery_it_goes_on(tmp_path):
    place = tmp_path / "people.gallery"
    tracks = [track("door", 1, 0, 5, turned(0)), track("hall", 1, 9, 12, turned(1))]
    with open_gallery(place, create=GalleryInfo(SIZE)) as gallery:
        first = CrossCamera(gallery, 0.8).add(tracks)
    with open_gallery(place) as gallery:
        people = CrossCamera(gallery, 0.8)
        again = people.add([*tracks, track("yard", 1, 20, 21, turned(1, 10))])
        assert pids(again) == [*pids(first), 1] and len(gallery) == 3
        (other,) = people.add([track("yard", 2, 0, 1, turned(3))])
        assert other.pid == 2
        # Known people by photographs, without a time; entries without identity are nobody.
        gallery.add(np.stack([turned(4), turned(5)]), [Entry("anna.jpg", pid=40), Entry("unknown.jpg")])
        found = people.add([track("yard", 3, 0, 1, turned(4)), track("yard", 4, 9, 10, turned(5))])
        assert pids(found) == [40, 3]
        # A person who was deleted for good is not followed again by the same tracks.
        gallery.delete(where=Filter(pids=(0,)))
        with pytest.raises(UserError, match="was deleted from the gallery"):
            people.add(tracks)


def test_two_processes_do_not_give_one_number_twice(tmp_path):
    place = tmp_path / "people.gallery"
    with open_gallery(place, create=GalleryInfo(SIZE)) as one, open_gallery(place) as other:
        here, there = CrossCamera(one, 0.8), CrossCamera(other, 0.8)
        found = [
            side.add([track("door", number, 10 * number, 10 * number + 1, turned(number))])[0].pid
            for number, side in enumerate((here, there, here, there))
        ]
    assert found == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"threshold": 1.5}, "A threshold is a cosine similarity"),
        ({"threshold": float("nan")}, "A threshold is a cosine similarity"),
        ({"travel": {("door", "door"): 1.0}}, "A pair of cameras is two names"),
        ({"travel": {("door", "hall"): -1}}, "A travel time must be"),
        ({"travel": {"ab": 1.0}}, "A pair of cameras is two names"),
        ({"travel": {("a", "b"): 1.0}, "overlapping": [("b", "a")]}, "The cameras a and b overlap"),
    ],
)
def test_wrong_settings(gallery, given, told):
    with pytest.raises(UserError, match=told):
        CrossCamera(**{"gallery": gallery, "threshold": 0.5, **given})


def test_wrong_tracks(gallery):
    people = CrossCamera(gallery, 0.5)
    with pytest.raises(UserError, match="holds embeddings of 8 numbers, and these have 3"):
        people.add([track("door", 1, 0, 1, np.ones(3, np.float32))])
    with pytest.raises(UserError, match="are impossible"):
        people.add([track("door", 1, 5, 1, turned(0))])
    assert people.add([]) == [] and len(gallery) == 0


def test_the_threshold_of_a_calibration():
    point = OperatingPoint(1e-3, 0.4, 0.9, 1, 1000, 1e-3, 0.95, True, "")
    none = OperatingPoint(1e-4, None, 0.0, 0, 1000, 1.0, 0.95, False, "")
    cosine = Calibration("platt", "cosine", True, slope=-1.0, operating_points=(point, none))
    assert similarity_threshold(cosine) == pytest.approx(0.6)
    squared = Calibration("platt", "euclidean", True, slope=-1.0, operating_points=(point,))
    assert similarity_threshold(squared) == pytest.approx(0.8)
    for rate in (1e-4, 0.5):
        with pytest.raises(UserError, match=r"no threshold for .*; it has 0.001"):
            similarity_threshold(cosine, rate)
    with pytest.raises(UserError, match="of any length"):
        similarity_threshold(Calibration("platt", "euclidean", False, operating_points=(point,)))


def run(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        tracks_command.main(["identify", *map(str, arguments)])
    printed = capsys.readouterr()
    return left.value.code, printed.out + printed.err


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notes = {"model": "m", "fingerprint": "f", "since_1970": True}
    save_tracks("door.npz", [track("door", 1, 0, 5, turned(0)), track("door", 2, 1, 6, turned(1))], notes)
    save_tracks("hall.npz", [track("hall", 1, 9, 12, turned(0, 20))], notes)
    code, told = run(capsys, "people.gallery", "door.npz", "--threshold", 0.8)
    assert code == 0 and "2 tracks of 2 people, 2 of them new; 0 tracks" in told, told
    code, told = run(
        capsys, "people.gallery", "door.npz", "hall.npz", "--threshold", 0.8, "--travel", "door:hall:2",
        "--out", "people.csv",
    )  # fmt: skip
    assert code == 0 and "3 tracks of 2 people, 0 of them new; 2 tracks were there already" in told, told
    with Path("people.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["camera"], row["pid"], row["known"]) for row in rows] == [
        ("door", "0", "1"), ("door", "1", "1"), ("hall", "0", "1"),
    ]  # fmt: skip
    save_tracks("other.npz", [track("yard", 1, 0, 5, turned(0))], {**notes, "fingerprint": "g"})
    save_tracks("early.npz", [track("yard", 1, 0, 5, turned(0))], {**notes, "since_1970": False})
    for given, sentence in (
        (["door.npz"], "Say how similar"),
        (["door.npz", "--threshold", 0.8, "--out", "people.csv"], "exists already"),
        (["door.npz", "other.npz", "--threshold", 0.8], "are of different encoders"),
        (["door.npz", "early.npz", "--threshold", 0.8], "count time differently"),
        (["other.npz", "--threshold", 0.8], "is another encoder"),
        (["door.npz", "--threshold", 0.8, "--travel", "door:hall"], "is not A:B:S"),
        (["door.npz", "--threshold", 0.8, "--travel", "door:hall:x"], "has no number of seconds"),
        (["door.npz", "--calibration", "none.json"], "none.json cannot be read"),
        (["none.npz", "--threshold", 0.8], "There are no tracks none.npz"),
    ):
        code, told = run(capsys, "people.gallery", *given)
        assert code == 2 and sentence in told and told.count("\n") == 1, told
