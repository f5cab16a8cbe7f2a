"""Tracks with one embedding each: from files and trackers, videos, folders and streams, live and in bulk."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from san_tf import FrameEncoder, TrackEncoder, UserError
from san_tf.embedding import video as video_module
from san_tf.embedding.track_encoder import Track, crop_quality, load_tracks, save_tracks, times_of_key
from san_tf.embedding.tracks import Box
from san_tf.embedding.video import VideoFrame, shown_source, video_frames
from san_tf.retrieval import tracks_command
from san_tf.serving.runtime_sessions import Session, _Runtime

LEFT, RIGHT = (10, 20, 42, 100), (80, 30, 116, 110)


@pytest.fixture
def encode() -> FrameEncoder:
    """An encoder whose embedding is the mean colour, RGB, scaled to length 1."""

    def embed(images: np.ndarray) -> np.ndarray:
        rows = images.mean((1, 2)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)

    runtime = _Runtime(embed, 3, {"image_size": [8, 4]}, True)
    return FrameEncoder(Session(Path("x.onnx"), runtime), min_sharpness=0.0)


def frame(number: int = 0, left=(0, 0, 200), right=(0, 200, 0)) -> np.ndarray:
    """A red person on the left and a green one on the right, BGR; noise keeps it sharp."""
    pixels = np.random.default_rng(number).integers(0, 40, (160, 200, 3)).astype(np.uint8)
    for box, color in ((LEFT, left), (RIGHT, right)):
        pixels[box[1] : box[3], box[0] : box[2]] += np.array(color, np.uint8)
    return pixels


def test_a_track_is_the_mean_of_its_best_crops_weighted_by_quality(encode):
    door = TrackEncoder(encode, "door", best=2, spacing=0.4, gap=1.0)
    # Of the crops at 0 and 0.2, the one of higher confidence counts; the one at 2.0 is worse than both kept.
    for when, confidence, color in (
        (0.0, 0.5, (0, 0, 200)), (0.2, 1.0, (200, 0, 0)), (1.0, 0.5, (0, 200, 0)), (2.0, 0.25, (0, 0, 200)),
    ):  # fmt: skip
        assert not door.update(when, frame(1, left=color), [LEFT], [7], [confidence])
    (now,) = door.current()
    assert now[:6] == ("door", 7, 0.0, 2.0, 4, 2)
    assert not door.update(3.0, frame(1), [], [])  # as long as the gap, not longer
    (track,) = door.update(3.1, frame(1), [RIGHT], [8])
    assert door.current()[0].track == 8
    blue, green = (encode(frame(1, left=c), [LEFT]).embeddings[0] for c in ((200, 0, 0), (0, 200, 0)))
    wanted = 1.0 * blue + 0.5 * green  # all else is equal
    np.testing.assert_allclose(track.embedding, wanted / np.linalg.norm(wanted), atol=0.01)
    np.testing.assert_allclose(now.embedding, track.embedding, atol=1e-6)
    assert track.key == "door#7@0.000+2.000" and times_of_key(track.key) == (0.0, 2.0)
    assert times_of_key("door#7.jpg") is None


def test_quality_by_hand():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 32, 3), np.uint8)  # sharp: that factor is 1
    alone = np.array([[0, 0, 32, 64]], float)
    assert crop_quality(noise, alone, 0) == pytest.approx(64 / 128)
    # Half of the box is out of the frame.
    assert crop_quality(noise, np.array([[-32, 0, 32, 64]], float), 0) == pytest.approx(0.5 * 0.5)
    # Somebody nearer, whose feet are lower, covers a quarter; somebody behind covers nothing.
    covered = np.array([[0, 0, 32, 64], [24, 0, 60, 80]], float)
    assert crop_quality(noise, covered, 0) == pytest.approx(0.5 * 0.75)
    assert crop_quality(noise, np.array([[0, 0, 32, 64], [24, 0, 60, 60]], float), 0) == pytest.approx(0.5)
    assert crop_quality(np.full((64, 32, 3), 90, np.uint8), alone, 0) == 0.0


def test_what_gives_no_crop_is_counted(encode):
    door = TrackEncoder(encode, "door")
    boxes = [LEFT, RIGHT, RIGHT, (300, 0, 340, 90), (0, 0, 4, 4), LEFT]
    door.update(0.0, frame(), boxes, [1, 2, 2, 3, 4, -1])
    assert [track.track for track in door.finish()] == [1] and door.without == 2
    assert door.refused == {
        "has an id that the frame has twice": 2,
        "lies outside the frame": 1,
        "is too small": 1,
        "has no id": 1,
    }


def test_memory_is_bounded_and_embedding_early_changes_nothing(encode, monkeypatch):
    def run() -> list[Track]:
        door = TrackEncoder(encode, "door", best=3, spacing=0.0)
        for number in range(40):
            door.update(number, frame(number), [LEFT, RIGHT], [1, 2], [(number * 7 % 40) / 40, 0.5])
            held = [crop for track in door._open.values() for crop in track.crops]
            assert len(held) <= 6
            kept = sum(crop.pixels.nbytes for crop in held if crop.pixels is not None)
            assert door._pending == kept and all(
                crop.pixels is None or crop.pixels.base is None for crop in held
            )
        return door.finish()

    late = run()
    monkeypatch.setattr("san_tf.embedding.track_encoder._PENDING_BYTES", 0)
    for one, other in zip(late, run(), strict=True):
        assert one[:7] == other[:7]
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((0.5, frame(), [LEFT], [1]), "before that of the last one"),
        ((float("nan"), frame(), [LEFT], [1]), "must be a number of seconds"),
        ((2.0, None, [LEFT], [1]), "The frame is None"),
        ((2.0, frame(), [LEFT], [1, 2]), "There are 1 boxes; give as many ids"),
        ((2.0, frame(), [LEFT], [1.5]), "give as many ids, whole numbers"),
        ((2.0, frame(), [LEFT], ["seven"]), "give as many ids"),
        ((2.0, frame(), [LEFT], [1], [2.0]), "confidences in 0..1"),
        ((2.0, frame(), [LEFT], [1], [float("nan")]), "confidences in 0..1"),
    ],
)
def test_wrong_frames_change_nothing(encode, given, told):
    door = TrackEncoder(encode, "door")
    door.update(1.0, frame(), [LEFT], [1])
    with pytest.raises(UserError, match=told):
        door.update(*given)
    (track,) = door.finish()
    assert track[:6] == ("door", 1, 1.0, 1.0, 1, 1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"camera": " "}, "A camera needs a printable name"),
        ({"camera": "a\nb"}, "A camera needs a printable name"),
        ({"best": 0}, "best must be"),
        ({"gap": float("nan")}, "gap must be"),
        ({"spacing": -1}, "spacing must be"),
    ],
)
def test_wrong_settings(encode, given, told):
    with pytest.raises(UserError, match=told):
        TrackEncoder(**{"encode": encode, "camera": "door", **given})


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> tuple[Path, Path]:
    """The same twelve frames, ten in a second, as a folder of images and as a video."""
    folder = tmp_path_factory.mktemp("door") / "img1"
    folder.mkdir()
    video = folder.parent / "door.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (200, 160))
    for number in range(1, 13):
        cv2.imwrite(str(folder / f"{number:06}.png"), frame(number))
        writer.write(frame(number))
    writer.release()
    return folder, video


@pytest.mark.parametrize("kind", [0, 1])
def test_a_video_and_a_folder_with_the_boxes_of_a_file(encode, videos, kind):
    tracks = {
        1: [Box(number, 10, 20, 32, 80) for number in (1, 2, 9)],  # away for longer than any gap
        2: [Box(number, 80, 30, 36, 80) for number in (3, 4, 12)],
    }
    door = TrackEncoder(encode, "door", gap=0.1)
    found = list(door.embed_video(videos[kind], tracks, start=100.0, fps=10 if kind == 0 else None))
    assert [track[:6] for track in found] == [
        ("door", 1, 100.0, pytest.approx(100.8), 3, 2),
        ("door", 2, pytest.approx(100.2), pytest.approx(101.1), 3, 2),
    ]
    for track, color in zip(found, (0, 1), strict=True):
        assert track.embedding.argmax() == color and track.embedding.max() > 0.9
    with pytest.raises(UserError, match=r"has 12 frames, and its tracks go to frame 40"):
        list(TrackEncoder(encode, "door").embed_video(videos[kind], {1: [Box(40, 10, 20, 32, 80)]}))


def test_damaged_and_missing_frames_are_counted(encode, videos, tmp_path):
    for number, path in enumerate(sorted(videos[0].iterdir())):
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if number == 3 else content)
    door = TrackEncoder(encode, "door")
    tracks = {1: [Box(number, 10, 20, 32, 80) for number in range(1, 13)]}
    (track,) = door.embed_video(tmp_path, tracks)
    assert track.boxes == 11 and (door.frames, door.damaged_frames) == (12, 1)
    ((name, problem),) = door.damaged.items()
    assert name == f"{tmp_path}, frame 4" and "damaged" in problem
    # A video that is cut off: its header promises more frames than it has.
    cut = tmp_path / "cut.avi"
    content = videos[1].read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    frames = list(video_frames(cut))
    assert frames[0].pixels is not None
    if len(frames) == 12:
        assert frames[-1].pixels is None and "cut off" in frames[-1].problem


def track_both(pixels: np.ndarray):
    return [LEFT, RIGHT], [1, 2]


def test_a_tracker_of_ones_own(encode, videos):
    door = TrackEncoder(encode, "door")
    found = list(door.follow(videos[0], track_both, fps=10))
    assert [track[:6] for track in found] == [
        ("door", number, 0.0, pytest.approx(1.1), 12, 3) for number in (1, 2)
    ]
    with pytest.raises(UserError, match=r"The tracker returned int; it must return boxes"):
        list(TrackEncoder(encode, "door").follow(videos[0], lambda pixels: 3))


class Capture:
    """A stream that ends after some frames; one of them cannot be decoded. Live ones promise no number."""

    def __init__(self, frames: list, promised: float = -1.0) -> None:
        self.frames, self.promised, self.released = frames, promised, False

    def get(self, name: int) -> float:
        return self.promised if name == cv2.CAP_PROP_FRAME_COUNT else 0.0

    def isOpened(self) -> bool:
        return bool(self.frames)

    def grab(self) -> bool:
        return bool(self.frames)

    def retrieve(self):
        pixels = self.frames.pop(0)
        return pixels is not None, pixels

    def release(self) -> None:
        self.released = True


def test_a_stream_is_opened_again_and_what_it_gave_is_kept(encode, monkeypatch):
    monkeypatch.setattr("san_tf.embedding.video._FIRST_WAIT", 0.01)
    runs = [[frame(1), None, frame(2)], [], [frame(3)]]
    waits, told = [], []

    def open_capture(address: str) -> Capture:
        waits.append(time.monotonic())
        return Capture(runs.pop(0) if runs else [])

    frames = video_frames(
        "rtsp://me:secret@camera/1", patience=0.5, tell=told.append, open_capture=open_capture
    )
    door = TrackEncoder(encode, "door")
    found = []
    with pytest.raises(UserError, match=r"^rtsp://camera/1 gave no frame for 0.5 s; check") as failed:
        for one in door.follow(frames, track_both):  # raises at the end
            found.append(one)
    assert [one[:2] for one in found] == [("door", 1), ("door", 2)] and found[0].boxes == 3
    assert "secret" not in f"{failed.value} {told}"
    assert told[:2] == ["rtsp://camera/1 gives no frames; it is opened again.", "rtsp://camera/1 is back."]
    assert (door.frames, door.damaged_frames) == (4, 1)
    pauses = np.diff(waits)
    assert pauses[1] > 0.015 and pauses[-1] > 2 * pauses[0]  # each twice as long as the last one
    assert abs(time.time() - door._now) < 60


def test_a_stream_stays_live_if_frames_come_faster_than_they_are_taken(monkeypatch):
    monkeypatch.setattr("san_tf.embedding.video._FIRST_WAIT", 10.0)
    capture = Capture([frame(number) for number in range(100)])
    frames = video_frames("rtsp://camera/1", patience=0.2, open_capture=lambda address: capture)
    first = next(frames).number
    while not capture.released:
        time.sleep(0.01)
    rest: list[VideoFrame] = []
    with pytest.raises(UserError):
        rest.extend(frames)
    assert [one.number for one in rest] == list(range(max(69, first + 1), 101))  # the newest 32
    frames = video_frames("rtsp://c/1", patience=0.2, open_capture=lambda address: Capture([frame(0)]))
    assert isinstance(next(frames), VideoFrame)
    frames.close()


def test_a_frozen_stream_is_lost_although_its_decoder_still_gives_frames(monkeypatch):
    """OpenCV waits until its time limit and then empties its decoder, one frame a time limit."""
    monkeypatch.setattr("san_tf.embedding.video._SILENCE", 0.2)
    monkeypatch.setattr("san_tf.embedding.video._FIRST_WAIT", 0.01)

    class Frozen(Capture):
        def grab(self) -> bool:
            if len(self.frames) < 3:
                time.sleep(0.25)
            return super().grab()

    runs, told = [Frozen([frame(number) for number in range(4)]), Capture([frame(9)])], []
    frames = video_frames(
        "rtsp://camera/1", patience=1.0, tell=told.append, open_capture=lambda address: runs.pop(0)
    )
    assert [next(frames).number for _ in range(2)] == [1, 2]
    np.testing.assert_array_equal(next(frames).pixels, frame(9))  # of the second connection
    assert told[0].endswith("gives no frames; it is opened again.")
    frames.close()


@pytest.mark.parametrize("left", ["closed", "at the end of the program"])
def test_a_stream_that_is_left_ends_its_thread(monkeypatch, left):
    """A thread inside OpenCV would abort the whole process when the interpreter ends."""
    opened = []

    class Slow(Capture):
        def __init__(self, address: str) -> None:
            super().__init__([frame(0)] * 1000)
            opened.append(self)

        def grab(self) -> bool:
            time.sleep(0.1)
            return super().grab()

    if left != "closed":
        monkeypatch.setattr("san_tf.embedding.video._PARTING", 0.0)
    frames = video_frames("rtsp://camera/1", open_capture=Slow)
    next(frames)
    (reader,) = (one for one in threading.enumerate() if one.name == "san_tf stream" and one.is_alive())
    if left == "closed":
        frames.close()
    else:
        video_module._let_streams_go()
    assert not reader.is_alive() and opened[0].released


def test_a_video_at_an_address_ends_with_its_last_frame():
    frames = video_frames(
        "https://there/door.mp4", patience=9, open_capture=lambda address: Capture([frame(1)] * 5, 5.0)
    )
    assert [one.number for one in frames] == [1, 2, 3, 4, 5]


def test_opencv_opens_an_address(encode, videos):
    """A real server: the calls that the tests above replace."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(videos[1].parent))
    handler.log_message = lambda *told: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/door.avi"
        found = list(TrackEncoder(encode, "door").follow(address, track_both, patience=20))
        server.shutdown()
    assert [(one.track, one.boxes) for one in found] == [(1, 12), (2, 12)]
    assert abs(time.time() - found[0].first) < 60


def test_addresses_are_shown_without_passwords():
    assert shown_source("rtsp://me:p@ss/word@camera:554/1?x=a@b") == "rtsp://ss/word@camera:554/1?x=a@b"
    assert shown_source("rtsp://me:secret@camera:554/1?x=a@b") == "rtsp://camera:554/1?x=a@b"
    assert shown_source("door.mp4") == "door.mp4"
    assert shown_source("http://camera/video.cgi?user=me&pwd=secret&x=1#password=secret") == (
        "http://camera/video.cgi?user=me&pwd=***&x=1#password=***"
    )
    assert shown_source("rtsp://camera/user=admin_password=secret_channel=1/token=a") == (
        "rtsp://camera/user=admin_password=***_channel=1/token=***"
    )


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("missing.mp4", {}, "does not exist"),
        (__file__, {}, "not a video that OpenCV can read"),
        ("file:///door.mp4", {}, "is the address of a file; give its path"),
        ("door.mp4", {"fps": 0}, "must be a number above 0"),
        ("door.mp4", {"start": float("inf")}, "must be finite"),
    ],
)
def test_wrong_videos(source, options, told):
    with pytest.raises(UserError, match=told):
        next(video_frames(source, **options))


def track(number: int, camera: str = "door") -> Track:
    row = np.eye(4, dtype=np.float32)[number % 4]
    return Track(camera, number, 1.5 * number, 1.5 * number + 1, 9, 3, 0.5, row)


def test_files_of_tracks(tmp_path):
    tracks = [track(1), track(2, "hall/2 west")]
    save_tracks(tmp_path / "a.npz", tracks, {"model": "x"})
    read, notes = load_tracks(tmp_path / "a.npz")
    assert notes == {"model": "x"} and [one[:7] for one in read] == [one[:7] for one in tracks]
    np.testing.assert_array_equal(read[1].embedding, tracks[1].embedding)
    save_tracks(tmp_path / "a.csv", tracks)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[1] == "door#1@1.500+1.000,door,1,1.5,2.5,9,3,0.5" and len(lines) == 3
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-200])
    np.savez(tmp_path / "other.npz", features=np.ones((2, 3)))
    for name, told in (
        ("a.csv", "holds no embeddings"), ("cut.npz", "not a whole file"), ("other.npz", "not a whole file"),
        ("none.npz", "There are no tracks"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=told):
            load_tracks(tmp_path / name)
    with pytest.raises(UserError, match=r"let it end in \.npz or \.csv"):
        save_tracks(tmp_path / "a.parquet", tracks)
    with pytest.raises(UserError, match="No track has an embedding"):
        save_tracks(tmp_path / "b.npz", [])
    assert not (tmp_path / "b.npz").exists()


def run(capsys, *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        tracks_command.main(list(map(str, arguments)))
    printed = capsys.readouterr()
    return left.value.code, printed.out + printed.err


def test_the_command(encode, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        tracks_command, "_encoder", lambda model, kind: (encode, {"model": "m", "fingerprint": "f"})
    )
    monkeypatch.chdir(tmp_path)
    lines = "".join(f"{n},1,10,20,32,80,1\n{n},2,80,30,36,80,1\n{n},3,900,9,30,80,1\n" for n in range(1, 13))
    Path("door.txt").write_text(lines)
    given = [videos[1], "--tracks", "door.txt", "--model", "m", "--out", "door.npz"]
    code, told = run(capsys, "embed", *given, "--start", "2026-01-31T08:30")
    assert code == 0 and "2 tracks in 12 frames" in told and "1 tracks have none" in told, told
    assert "lies outside the frame: 12" in told
    tracks, notes = load_tracks("door.npz")
    assert tracks[0].camera == "door" and tracks[0].first == 1769848200.0
    assert notes == {"model": "m", "fingerprint": "f", "since_1970": True}
    Path("mine.py").write_text(
        "class Track:\n    def __call__(self, frame):\n        return [(10, 20, 42, 100)], [4]\n"
    )
    code, told = run(
        capsys, "embed", videos[0], "--tracker", "mine:Track", "--camera", "hall", "--model", "m",
        "--out", "hall.npz",
    )  # fmt: skip
    assert code == 0 and load_tracks("hall.npz")[0][0][:2] == ("hall", 4), told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["door.avi", "--tracks", "wrong.txt"], "wrong.txt, line 1"),
        (["door.avi"], "Say where the boxes come from"),
        (["door.avi", "--tracks", "a.txt", "b.txt"], "1 videos and 2 files"),
        (["rtsp://c/1", "--tracks", "a.txt", "--camera", "c"], "A stream needs a command of its own"),
        (["rtsp://c/1", "--tracker", "mine:f"], "add --camera"),
        (["door.avi", "--tracker", "mine"], "give MODULE:NAME"),
        (["door.avi", "--tracker", "not_there:f"], "cannot be imported"),
        (["door.avi", "--tracker", "os:sep"], "is not a function"),
        (["none.avi", "--tracker", "os:getcwd"], "does not exist"),
        (["door.avi", "x/door.avi", "--tracker", "os:getcwd"], "name them with --camera"),
        (["door.avi", "--tracker", "os:getcwd", "--model", "none.onnx"], "none.onnx does not exist"),
        (["door.avi", "--tracker", "os:getcwd", "--out", "x.txt"], "let it end in .npz or .csv"),
        (["door.avi", "--tracker", "os:getcwd", "--start", "noon"], "noon"),
    ],
)
def test_mistakes_are_told_in_a_sentence_before_a_model_is_loaded(given, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("door.avi").write_bytes(b"")
    Path("wrong.txt").write_text("frame;id\n")
    defaults = {"--model": "m.onnx", "--out": "out.npz"}
    for flag, value in defaults.items():
        given = given if flag in given else [*given, flag, value]
    code, printed = run(capsys, "embed", *given)
    assert code == 2 and told in printed and printed.count("\n") == 1, printed
    assert not Path("out.npz").exists()


def test_its_import_brings_neither_tensorflow_nor_pillow():
    code = (
        "import sys, san_tf\n"
        "san_tf.TrackEncoder\n"
        "heavy = {'tensorflow', 'keras', 'numba', 'rich', 'simple_parsing', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
