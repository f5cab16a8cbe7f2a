"""Tracks of a video: which crops are taken, how they are pooled, and what is told of wrong files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from san_tf.embedding.bulk import Progress
from san_tf.embedding.feature_table import FeatureTable
from san_tf.embedding.tracks import Box, embed_tracks, embed_videos, read_tracks
from san_tf.embedding.video import frames_in_order
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


GOOD = "".join(f"{frame},1,20,10,64,128,1,-1,-1,-1\n" for frame in range(1, 13))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "holds no track"),
        ("1,1,0,0,10,10,0\n", "holds no track"),
        ("1,1,0,0,10\n", "line 1 has 5 cells, not frame, id, left"),
        ("0,1,0,0,10,10\n1,1,0,0,10,10\n", "line 1: there is a frame 0, but .* say --first_frame 0"),
        ("1,1,0,0,0,10\n", "line 1 has a box without a size"),
        ("1,1,0,nan,10,10\n", "line 1 has a cell that is not a finite number"),
        ("1,inf,0,0,10,10\n", "line 1 has the id 'inf', which is not a whole number"),
        ("1,1.5,0,0,10,10\n", "line 1 has the id '1.5', which is not a whole number"),
        ("frame,id,x,y,w,h\n", "holds no track"),
        ("id,frame,x,y,w,h\n" + GOOD, "its columns are id, frame, x, y, w, h; they must be frame, id"),
        ("frame,id,x1,y1,x2,y2\n" + GOOD, "its boxes are corners .*--boxes corners"),
        (GOOD.replace(",", ";"), "its cells are separated by semicolons"),
        (GOOD.replace(",", " "), "its cells are separated by spaces"),
        ("".join(f"{frame},-1,20,10,64,128,1\n" for frame in range(1, 13)), "holds detections, not tracks"),
        # A person who stands still, and people who walk to and fro.
        ("".join(f"{frame},1,20,10,84,138,1\n" for frame in range(1, 13)), "look like the right and lower"),
        (
            "".join(f"{frame},1,{9 * frame},10,{9 * frame + 64},138,1\n" for frame in range(1, 13)),
            "look like the right and lower corner",
        ),
    ],
)
def test_wrong_files_of_tracks(tmp_path, lines, told):
    with pytest.raises(UserError, match=told):
        read_tracks(_write(tmp_path / "tracks.txt", lines))
    with pytest.raises(UserError, match="cannot be read"):
        read_tracks(tmp_path / "nowhere.txt")


def test_what_is_said_of_frames_and_boxes_is_followed(tmp_path):
    path = _write(tmp_path / "t.txt", "0,1,20,10,84,138,1\n1,1,21,10,85,138,1\n")
    boxes = [Box(1, 20, 10, 64, 128), Box(2, 21, 10, 64, 128)]
    assert read_tracks(path, first_frame=0, boxes="corners") == {1: boxes}
    assert read_tracks(path, first_frame=0, boxes="sizes")[1][0] == Box(1, 20, 10, 84, 138)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("5,2,110,10,0,128,1", "has a box without a size"),
        ("5,-1,1,1,5,9,1", "has a negative id, which means that nobody was recognised"),
        ("5,two,1,1,5,9,1", "has the id 'two', which is not a number"),
        ("5,2", "has 2 cells, not frame, id, left, top, width, height"),
        ("-5,2,1,1,5,9,1", "has a negative frame"),
    ],
)
def test_one_bad_line_costs_that_line(tmp_path, line, problem):
    path = _write(
        tmp_path / "t.txt", f"\ufeffFrame,ID,bb_left,bb_top,bb_width,bb_height,conf\n{GOOD}{line}\n"
    )
    tracks = read_tracks(path)
    assert list(tracks) == [1] and len(tracks[1]) == 12
    assert tracks.left_out == {f"{path}, line 14": problem}


def test_an_id_in_two_places_is_nobody(tmp_path):
    path = _write(tmp_path / "t.txt", GOOD + "3,1,40,10,64,128\n4,1,20,10,64,128,1,-1,-1,-1\n")
    tracks = read_tracks(path)
    assert [box.frame for box in tracks[1]] == [1, 2, *range(4, 13)]
    assert set(tracks.left_out) == {f"{path}, line 3", f"{path}, line 13"}


def _frames(folder: Path, *names: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [path.name for path in frames_in_order(folder)]


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (
            ["1.png", "10.png", "2.png"] + [f"{n}.png" for n in range(3, 10)],
            [f"{n}.png" for n in range(1, 11)],
        ),
        (["9999.png", "10000.png", "9998.png"], ["9998.png", "9999.png", "10000.png"]),
        (["img_0.jpg", "img_1.PNG", "._img_0.jpg", "notes.txt"], ["img_0.jpg", "img_1.PNG"]),
        (["2026-01-02_03.jpg", "2026-01-01_10.jpg"], ["2026-01-01_10.jpg", "2026-01-02_03.jpg"]),
        (["1700000000123.jpg", "1700000000990.jpg"], ["1700000000123.jpg", "1700000000990.jpg"]),
        (["only.bmp"], ["only.bmp"]),
    ],
)
def test_frames_come_in_the_order_of_their_numbers(tmp_path, names, ordered):
    assert _frames(tmp_path / "frames", *names) == ordered


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["1.png", "01.png"], "01.png and 1.png have the same number"),
        (["1.png", "1.jpg"], "1.jpg and 1.png have the same number"),
        (["a1.png", "b1.png"], "a1.png and b1.png differ in more than a number"),
        (["1.5.png", "1.25.png"], "by letters 1.25.png comes before 1.5.png, by numbers after it"),
        (["1.png", "2.png", "4.png"], "has no frames between 2.png and 4.png"),
        (["a.txt"], "holds no frame"),
    ],
)
def test_an_order_that_cannot_be_told_is_refused(tmp_path, names, told):
    with pytest.raises(UserError, match=told):
        _frames(tmp_path / "frames", *names)


def test_frames_that_are_damaged_or_missing_cost_those_frames(videos, tmp_path):
    tracks = {1: [Box(frame, 0, 0, 20, 40) for frame in range(1, 15)], 2: [Box(14, 0, 0, 20, 40)]}
    rows, left_out = embed_tracks(videos[0], tracks, _Means(), per_track=20)
    assert rows[0].columns["crops"] == "12"
    missing = "is missing: the video ends before it"
    assert left_out == {
        f"{videos[0]}, frame 13": missing,
        f"{videos[0]}, frame 14": missing,
        f"{videos[0]}#2": "is only in frames that could not be read",
    }
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(1, 4):
        content = cv2.imencode(".jpg", cv2.resize(_frame(number), (640, 480)))[1].tobytes()
        # The second is cut off: OpenCV would fill it with grey.
        (folder / f"{number}.jpg").write_bytes(content[: len(content) // 2] if number == 2 else content)
    rows, left_out = embed_tracks(folder, {1: [Box(frame, 0, 0, 20, 40) for frame in (1, 2, 3)]}, _Means())
    assert rows[0].columns["crops"] == "2"
    assert left_out == {f"{folder}, frame 2": "is damaged: it cannot be decoded"}


def test_wrong_videos(videos, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.mp4 does not exist"):
        embed_tracks(tmp_path / "nowhere.mp4", TRACKS, _Means())
    with pytest.raises(UserError, match="is not a video that OpenCV can read"):
        embed_tracks(_write(tmp_path / "text.mp4", "hello"), TRACKS, _Means())
    with pytest.raises(UserError, match="has 12 frames, and its tracks go to frame 30"):
        embed_tracks(videos[0], {1: [Box(30, 0, 0, 5, 5)]}, _Means())
    (tmp_path / "frames").mkdir()
    _write(tmp_path / "frames" / "000001.jpg", "hello")
    rows, left_out = embed_tracks(tmp_path / "frames", {1: [Box(1, 0, 0, 5, 5)]}, _Means())
    assert not rows and "is not an image" in left_out[f"{tmp_path}/frames, frame 1"]


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
