"""Tracks of a video: which crops are taken, how they are pooled, and what is told of wrong files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from san_tf.embedding.bulk import Progress
from san_tf.embedding.feature_table import FeatureTable
from san_tf.embedding.tracks import Box, embed_tracks, embed_videos, read_tracks
from san_tf.errors import UserError

parquet = pytest.importorskip("pyarrow.parquet")
FRAMES = 12


class _Means:
    """An encoder whose embedding is a crop's mean colour (RGB) and size; it notes what it saw."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def embed_each(self, files):
        crops = [
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for content in files
        ]
        self.seen += crops
        return [crop.reshape(-1, 3).mean(axis=0).astype(np.float32) for crop in crops]


def _frame(number: int) -> np.ndarray:
    """Red on the left, its strength the frame's number; green on the right. BGR."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32, 2] = 20 * number
    frame[:, 32:, 1] = 200
    return frame


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> tuple[Path, Path]:
    """The same frames as a folder of images and as a video."""
    folder = tmp_path_factory.mktemp("frames") / "img1"
    folder.mkdir()
    writer = cv2.VideoWriter(str(folder.parent / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for number in range(1, FRAMES + 1):
        cv2.imwrite(str(folder / f"{number:06}.png"), _frame(number))
        writer.write(_frame(number))
    writer.release()
    return folder, folder.parent / "v.avi"


def _unit(*values: float) -> np.ndarray:
    return np.array(values) / np.linalg.norm(values)


TRACKS = {
    1: [Box(frame, 0, 0, 20, 40) for frame in range(1, 12)],  # the red side
    2: [Box(frame, 40, 5, 100, 20) for frame in (3, 4)],  # reaches out of the picture, on the green side
    7: [Box(5, 100, 100, 10, 10)],  # outside
}


@pytest.mark.parametrize("kind", [0, 1])
def test_crops_are_spread_along_a_track_and_pooled(videos, kind):
    video, encoder = videos[kind], _Means()
    rows, left_out = embed_tracks(video, TRACKS, encoder, per_track=3, batch_size=2)
    assert left_out == {f"{video}#7": "lies outside the picture"}
    assert [row.name for row in rows] == [f"{video}#1", f"{video}#2"]
    # Frames 1, 6 and 11 of track 1, and both of track 2: its boxes as far as they are in the picture.
    assert sorted(crop.shape[:2] for crop in encoder.seen) == [
        (20, 24),
        (20, 24),
        (40, 20),
        (40, 20),
        (40, 20),
    ]
    reds = sorted(float(crop[..., 0].mean()) for crop in encoder.seen if crop[..., 0].mean() > 10)
    np.testing.assert_allclose(reds, [20, 120, 220], atol=0 if kind == 0 else 8)
    tolerance = 1e-6 if kind == 0 else 0.05
    np.testing.assert_allclose(rows[0].features, _unit(120, 0, 0), atol=tolerance)
    np.testing.assert_allclose(rows[1].features, _unit(0, 200, 0), atol=tolerance)
    assert rows[0].columns == {"track": "1", "first_frame": "1", "last_frame": "11", "crops": "3"}


def _write(path: Path, lines: str) -> Path:
    path.write_text(lines)
    return path


def test_files_of_the_mot_challenge(tmp_path):
    # frame, id, left, top, width, height, confidence (0: to be left out), and more that nobody needs here.
    path = _write(
        tmp_path / "gt.txt",
        "3,2,10,20,30.5,40,1,1,0.8\n1,2,9,19,30,40,1,1,1\n\n2,2,9,19,30,40,0,1,1\n1,1,-5,0,10,10\n4,3,1,1,2,2,0,7,1\n",
    )
    second = [Box(1, 9, 19, 30, 40), Box(3, 10, 20, 30.5, 40)]
    assert read_tracks(path) == {1: [Box(1, -5, 0, 10, 10)], 2: second}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "holds no track"),
        ("1,1,0,0,10,10,0\n", "holds no track"),
        ("1,1,0,0,10,10\n1,1,0,0,10\n", "line 2: it is not frame, id, left"),
        ("0,1,0,0,10,10\n", "line 1"),
        ("1,1,0,0,0,10\n", "line 1"),
        ("1,1,0,nan,10,10\n", "line 1"),
        ("1,inf,0,0,10,10\n", "line 1"),
        ("frame,id,x,y,w,h\n", "line 1"),
    ],
)
def test_wrong_files_of_tracks(tmp_path, lines, told):
    with pytest.raises(UserError, match=told):
        read_tracks(_write(tmp_path / "tracks.txt", lines))
    with pytest.raises(UserError, match="cannot be read"):
        read_tracks(tmp_path / "nowhere.txt")


def test_wrong_videos(videos, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.mp4 does not exist"):
        embed_tracks(tmp_path / "nowhere.mp4", TRACKS, _Means())
    with pytest.raises(UserError, match="is no video that OpenCV can read"):
        embed_tracks(_write(tmp_path / "text.mp4", "hello"), TRACKS, _Means())
    with pytest.raises(UserError, match="has 12 frames, and its tracks go to frame 30"):
        embed_tracks(videos[0], {1: [Box(30, 0, 0, 5, 5)]}, _Means())
    (tmp_path / "frames").mkdir()
    _write(tmp_path / "frames" / "000001.jpg", "hello")
    with pytest.raises(UserError, match=r"frames/000001.jpg cannot be read"):
        embed_tracks(tmp_path / "frames", {1: [Box(1, 0, 0, 5, 5)]}, _Means())


def _table(path: Path) -> FeatureTable:
    return FeatureTable(path, {"model": "means"})


def test_a_video_that_was_done_is_not_read_again(videos, tmp_path):
    tracks = _write(tmp_path / "1.txt", "".join(f"{frame},1,0,0,20,40\n" for frame in range(1, 12)))
    late = _write(tmp_path / "2.txt", "30,4,0,0,5,5\n")
    pairs = [(str(videos[0]), str(tracks)), (str(videos[1]), str(late))]
    with pytest.raises(UserError, match="its tracks go to frame 30"):
        embed_videos(pairs, _Means(), _table(tmp_path / "t.parquet"))
    late.write_text("12,4,40,0,20,20\n13,9,0,0,1,1,0\n")
    encoder, told = _Means(), []
    report = lambda state: told.append(state.done)  # noqa: E731
    progress = embed_videos(pairs, encoder, _table(tmp_path / "t.parquet"), report=report)
    assert isinstance(progress, Progress) and (progress.done, progress.resumed, told) == (2, 1, [1, 2])
    assert [crop.shape[:2] for crop in encoder.seen] == [(20, 20)]
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table["path"].to_pylist() == [f"{videos[0]}#1", f"{videos[1]}#4"]
    assert table["crops"].to_pylist() == ["11", "1"]


def test_tracks_outside_every_picture(videos, tmp_path):
    tracks = _write(tmp_path / "1.txt", "1,1,500,0,20,40\n")
    with pytest.raises(UserError, match="No track lies inside its video's picture"):
        embed_videos([(str(videos[0]), str(tracks))], _Means(), _table(tmp_path / "t.parquet"))
