"""Rendered video: deterministic, in the layout of the MOT Challenge, with a truth that fits the pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from san_tf.embedding.tracks import read_tracks
from san_tf.embedding.video import video_frames
from san_tf.errors import UserError
from san_tf.synthesis import VideoConfig, synthetic_video
from san_tf.synthesis.video import VIDEOS, visits

TINY = VideoConfig(
    "tiny", cameras=2, people=1, strangers=1, seconds=14.0, fps=1, travel=(1.0, 2.0), seed=7001
)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return synthetic_video(tmp_path_factory.mktemp("video") / "tiny", TINY, progress=False)


def test_its_files_and_their_truth(video):
    assert sorted(path.name for path in video.iterdir()) == ["camera1", "camera2"]
    seen = 0
    for camera in sorted(video.iterdir()):
        assert "seqLength=14\nimWidth=480\nimHeight=270" in (camera / "seqinfo.ini").read_text()
        frames = list(video_frames(camera / "img1", fps=1))
        assert [frame.number for frame in frames] == list(range(1, 15))
        assert all(frame.pixels is not None and frame.pixels.shape == (270, 480, 3) for frame in frames)
        if not (camera / "gt" / "gt.txt").read_text():
            continue
        empty = np.median([frame.pixels for frame in frames], axis=0)
        for person, boxes in read_tracks(camera / "gt" / "gt.txt").items():
            here = [visit for visit in visits(TINY) if visit.person == person]
            for box in boxes:
                seen += 1
                assert any(visit.start <= box.frame - 1 < visit.stop for visit in here)
                # What differs from the empty street lies in the box.
                left, top = max(0, round(box.left)), max(0, round(box.top))
                right, bottom = round(box.left + box.width), round(box.top + box.height)
                changed = np.abs(frames[box.frame - 1].pixels - empty).max(axis=2)
                inside = changed[top:bottom, left:right]
                assert inside.size and np.percentile(inside, 75) > 2 * np.percentile(changed, 75)
    assert seen >= 4


def test_the_same_configuration_gives_the_same_bytes(video, tmp_path):
    again = synthetic_video(tmp_path / "again", TINY, progress=False)
    files = sorted(path.relative_to(video) for path in video.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((video / file).read_bytes() == (again / file).read_bytes() for file in files)


@pytest.mark.parametrize("name", VIDEOS)
def test_nobody_is_at_two_places_and_travel_takes_its_time(name):
    config = VIDEOS[name]
    plan = visits(config)
    several = 0
    for person in range(1, config.people + config.strangers + 1):
        own = [visit for visit in plan if visit.person == person]
        assert own and (person <= config.people or len(own) == 1)
        several += len(own) > 1
        for former, later in itertools.pairwise(own):
            assert config.travel[0] <= later.start - former.stop <= config.travel[1]
    assert several >= 0.6 * config.people


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cameras": 0}, "cameras must be 1"),
        ({"people": 0, "strangers": 0}, "one or more people"),
        ({"travel": (3.0, 1.0)}, "travel must be"),
        ({"seconds": 0.1}, "two or more frames"),
        ({"size": (8, 8)}, "64 pixels"),
    ],
)
def test_wrong_configurations(given, told):
    with pytest.raises(UserError, match=told):
        VideoConfig(**{"name": "x", "cameras": 1, "people": 1, "strangers": 0, "seconds": 5.0, **given})


def test_wrong_calls(tmp_path):
    with pytest.raises(UserError, match=r"no configuration 'cinema'; choose one of street, smoke"):
        synthetic_video(tmp_path / "x", "cinema")
    (tmp_path / "full").write_text("")
    with pytest.raises(UserError, match="is not an empty folder"):
        synthetic_video(tmp_path, "smoke")
