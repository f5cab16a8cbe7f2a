"""People in videos: one embedding a track, and the same person across cameras.

    san-tf tracks embed door.mp4 --tracks door.txt --model saved_models/market/1 --out door.npz
    san-tf tracks embed rtsp://camera/1 --tracker mine:track --camera door --model encoder.onnx --out door.npz
    san-tf tracks identify DB door.npz hall.npz --threshold 0.6 --out people.csv

`embed` takes videos, folders of frames and streams. `identify` compares the tracks with the people of a
gallery and adds them to it; those it does not know become new people. See also `san-tf tracks embed --help`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, Terminal, printable, run_as_command
from san_tf.errors import UserError, one_line
from san_tf.retrieval.name_reader import parse_time
from san_tf.start import import_tensorflow
from san_tf.trusted import model_path

_SUFFIXES = (".onnx", ".tflite", ".xml")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""

    def action() -> None:
        options = _parse(argv)
        options.action(options)

    run_as_command(action)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="san-tf tracks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    embed = commands.add_parser("embed", help="a video, folder of frames or stream to tracks")
    embed.set_defaults(action=_embed)
    embed.add_argument("videos", nargs="+", metavar="VIDEO", help="files, folders of frames, or one rtsp://")
    embed.add_argument("--model", required=True, help="an export, or a file of san-tf export-runtime")
    embed.add_argument(
        "--out", metavar="FILE", required=True, help="file to write: .npz, or .csv without embeddings"
    )
    embed.add_argument("--tracks", nargs="+", metavar="FILE", default=[], help="MOT files, one per video")
    embed.add_argument(
        "--tracker", metavar="MODULE:NAME", help="your function: a frame to boxes (N, 4) xyxy and ids (N,)"
    )
    embed.add_argument("--camera", nargs="+", metavar="NAME", default=[], help="names, one per video")
    embed.add_argument(
        "--start", nargs="+", metavar="TIME", default=[],
        help="when the videos began, 2026-01-31T08:30 (UTC without a zone); one for all, or one per video",
    )  # fmt: skip
    embed.add_argument(
        "--fps", type=float, metavar="N", help="frames in a second, if the video does not say it"
    )
    embed.add_argument("--best", type=int, metavar="N", default=8, help="most crops in an embedding")
    embed.add_argument(
        "--gap", type=float, metavar="S", default=5.0, help="seconds without a box that end a track"
    )
    embed.add_argument(
        "--patience", type=float, metavar="S", default=60.0, help="seconds to wait for a lost stream"
    )
    embed.add_argument(
        "--first_frame", type=int, choices=(0, 1), default=1, help="number of the tracks' first frame"
    )
    embed.add_argument(
        "--boxes",
        choices=("sizes", "corners"),
        help="the tracks' 5th and 6th number: width, height, or x2, y2",
    )
    embed.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    identify = commands.add_parser("identify", help="give tracks of cameras identities")
    identify.set_defaults(action=_identify)
    identify.add_argument("gallery", metavar="DB", help="gallery of known people; made if it is missing")
    identify.add_argument("tracks", nargs="+", metavar="TRACKS", help="files of san-tf tracks embed, .npz")
    identify.add_argument(
        "--threshold", type=float, metavar="X", help="lowest similarity of a person's tracks"
    )
    identify.add_argument(
        "--calibration",
        metavar="FILE",
        help="take the threshold from it: a .json, or the export that has one",
    )
    identify.add_argument(
        "--false_accepts", type=float, metavar="X", default=1e-3, help="rate for --calibration, such as 0.001"
    )
    identify.add_argument(
        "--travel",
        nargs="+",
        metavar="A:B:S",
        default=[],
        help="shortest seconds between two cameras, door:hall:5",
    )
    identify.add_argument(
        "--overlapping",
        nargs="+",
        metavar="A:B",
        default=[],
        help="cameras that see the same place, door:hall",
    )
    identify.add_argument("--out", metavar="FILE", help="a .csv to write: track, identity, similarity")
    identify.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    options: argparse.Namespace = parser.parse_args(argv)
    if options.out and Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    return options


def _embed(options: argparse.Namespace) -> None:
    from san_tf.embedding.frames import FrameEncoder
    from san_tf.embedding.track_encoder import TrackEncoder, check_tracks_name, save_tracks
    from san_tf.embedding.tracks import read_tracks
    from san_tf.embedding.video import is_stream, shown_source

    check_tracks_name(options.out)
    cameras, starts = _cameras(options), _starts(options)
    streams = [is_stream(video) for video in options.videos]
    if bool(options.tracks) == bool(options.tracker):
        raise UserError("Say where the boxes come from: --tracks FILE, or --tracker MODULE:NAME.")
    if any(streams) and (len(streams) > 1 or options.tracks or options.start):
        raise UserError("A stream needs a command of its own, with --tracker, and has its own times.")
    if options.tracks and len(options.tracks) != len(options.videos):
        raise UserError(
            f"There are {len(options.videos)} videos and {len(options.tracks)} files of tracks; give one "
            "per video."
        )
    # Wrong files are told before a model is loaded, which takes seconds.
    read = [read_tracks(path, options.first_frame, options.boxes) for path in options.tracks]
    tracker = _tracker(options.tracker) if options.tracker else None
    for video, stream in zip(options.videos, streams, strict=True):
        if not stream and not Path(video).exists():
            raise UserError(
                f"The video {one_line(video)} does not exist; name a video or a folder of frames."
            )
    encode, notes = _encoder(options.model, FrameEncoder)
    console, left_out = Terminal(), dict[str, str]()
    done: list[Any] = []
    problem: UserError | None = None
    refused: Counter[str] = Counter()
    frames = damaged = without = 0
    columns = (SpinnerColumn(), TextColumn("Embedding"), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, note="")
        for number, video in enumerate(options.videos):
            collected = TrackEncoder(encode, cameras[number], options.best, gap=options.gap)
            if tracker is None:
                left_out |= read[number].left_out
                found = collected.embed_video(video, read[number], starts[number], options.fps)
            else:
                track = tracker() if isinstance(tracker, type) else tracker
                settings: dict[str, Any] = {"fps": options.fps, "start": starts[number]}
                settings |= {"patience": options.patience, "tell": _tell}
                found = collected.follow(video, track, **settings)
            try:
                for one in _until_stopped(found, collected, streams[number]):
                    done.append(one)
                    shown.update(task, note=f"{len(done):,} tracks · {shown_source(video)}")
            except UserError as error:
                # What a stream gave until it was lost is kept.
                if not streams[number] or not done:
                    raise
                problem = error
            left_out |= collected.damaged
            refused += collected.refused
            frames += collected.frames
            damaged += collected.damaged_frames
            without += collected.without
    save_tracks(options.out, done, {**notes, "since_1970": bool(any(streams) or options.start)})
    lines = [f"{options.out}: embeddings of {len(done):,} tracks in {frames:,} frames"]
    if without:
        lines.append(f"{without:,} tracks have none: all their boxes were refused.")
    if refused:
        told = ", ".join(f"{reason}: {count:,}" for reason, count in refused.most_common())
        lines.append(f"Boxes refused: {told}.")
    if damaged:
        lines.append(f"Frames that could not be read: {damaged:,} of {frames:,}.")
    lines += [f"{one_line(name)} {text}" for name, text in list(left_out.items())[:5]]
    if len(left_out) > 5:
        lines.append(f"... and {len(left_out) - 5:,} more such lines and frames")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    if problem is not None:
        raise problem


def _until_stopped(found: Iterator[Any], collected: Any, stream: bool) -> Iterator[Any]:
    """Yield tracks; end a stream in good order when the user presses Ctrl-C."""
    try:
        yield from found
    except KeyboardInterrupt:
        if not stream:
            raise KeyboardInterrupt("Stopped; nothing was written.") from None
        yield from collected.finish()


def _tell(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _cameras(options: argparse.Namespace) -> list[str]:
    """Return the names of the cameras: given, or from the names of the videos."""
    from san_tf.embedding.video import is_stream

    names = list(options.camera)
    if names and len(names) != len(options.videos):
        raise UserError(
            f"There are {len(options.videos)} videos and {len(names)} cameras; give one name per video."
        )
    for video in options.videos if not names else ():
        if is_stream(video):
            raise UserError("A stream needs the name of its camera; add --camera, such as --camera door.")
        place = Path(os.path.abspath(video))
        # The MOT Challenge keeps the frames of `camera1` in `camera1/img1`.
        names.append(
            place.parent.name if place.name == "img1" else place.stem if place.suffix else place.name
        )
    if len(set(names)) != len(names):
        raise UserError(f"Two videos have the camera {one_line(names[0])}; name them with --camera.")
    return names


def _starts(options: argparse.Namespace) -> list[float]:
    if len(options.start) not in (0, 1, len(options.videos)):
        raise UserError(
            f"There are {len(options.videos)} videos and {len(options.start)} times; give one, or one per "
            "video."
        )
    given = [parse_time(text) for text in options.start] or [0.0]
    return given if len(given) == len(options.videos) else given * len(options.videos)


def _tracker(name: str) -> Any:
    """Import a user's tracker."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UserError(f"--tracker is {one_line(name)!r}; give MODULE:NAME, such as mine:track.")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may fail in any way
        reason = one_line(error, 100) or type(error).__name__
        raise UserError(
            f"--tracker {one_line(name)} cannot be imported ({reason}); it is looked for in this folder and "
            "among the installed packages."
        ) from error
    if not callable(found):
        raise UserError(f"--tracker {one_line(name)} is not a function; name one.")
    return found


def _encoder(model: str, encoder: Any) -> tuple[Any, dict[str, Any]]:
    """Open the encoder, and describe it for the file of tracks."""
    path = model_path(model)
    if path.suffix in _SUFFIXES:
        if not path.is_file():
            raise UserError(f"{one_line(model)} does not exist; write it with san-tf export-runtime.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        return encoder(path), {"model": str(path.resolve()), "fingerprint": digest}
    import_tensorflow()
    if not path.is_dir():
        return encoder(model), {"model": model, "fingerprint": ""}
    opened = encoder(path)
    from san_tf.serving.encoder_export import read_metadata
    from san_tf.serving.fingerprint import fingerprint
    from san_tf.serving.servable import newest_export

    folder = newest_export(path)
    return opened, {"model": str(folder.resolve()), "fingerprint": fingerprint(folder, read_metadata(folder))}


def _identify(options: argparse.Namespace) -> None:
    from san_tf.embedding.track_encoder import load_tracks
    from san_tf.retrieval.cross_camera import CrossCamera
    from san_tf.retrieval.gallery import GalleryInfo
    from san_tf.retrieval.opening import open_gallery

    if options.out and Path(options.out).suffix.lower() != ".csv":
        raise UserError(f"{options.out} is not the name of a .csv; let it end in .csv.")
    threshold = _threshold(options)
    travel, overlapping = _travel(options.travel), [_names(text) for text in options.overlapping]
    tracks: list[Any] = []
    first: tuple[str, dict[str, Any]] | None = None
    for path in options.tracks:
        some, notes = load_tracks(path)
        tracks += some
        if first is None:
            first = (path, notes)
        for what, told in (
            ("fingerprint", "are of different encoders"),
            ("since_1970", "count time differently"),
        ):
            if notes.get(what) != first[1].get(what):
                cure = (
                    "embed them with one encoder"
                    if what == "fingerprint"
                    else "give --start to all, or to none"
                )
                raise UserError(f"{first[0]} and {path} {told}; {cure}.")
    notes = first[1] if first else {}
    known = {track.camera for track in tracks}
    for name in sorted({name for pair in [*travel, *overlapping] for name in pair} - known):
        _tell(f"No track is of the camera {name}, which --travel or --overlapping names.")
    info = GalleryInfo(
        tracks[0].embedding.size, str(notes.get("model", "")), str(notes.get("fingerprint", ""))
    )
    with open_gallery(options.gallery, create=info) as gallery:
        gone = gallery.deleted([track.key for track in tracks]).keys
        tracks = [track for track in tracks if track.key not in gone]
        before = len(gallery)
        found = CrossCamera(gallery, threshold, travel, overlapping).add(tracks)
        added = len(gallery) - before
    people = {one.pid for one in found}
    fresh = {one.pid for one in found if not one.known}
    console = Terminal()
    if options.out:
        with atomic_file(options.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("key", "camera", "track", "first", "last", "pid", "known", "similarity"))
            for one in found:
                similar = "" if one.similarity is None else f"{one.similarity:.4f}"
                rows.writerow((one.track.key, *one.track[:4], one.pid, int(one.known), similar))
    console.print(
        f"{options.gallery}: {len(found):,} tracks of {len(people):,} people, {len(fresh):,} of them new; "
        f"{len(found) - added:,} tracks were there already",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if gone:
        console.print(f"{len(gone):,} tracks were deleted for good and stay deleted.", markup=False)


def _threshold(options: argparse.Namespace) -> float:
    from san_tf.evaluation.calibration import Calibration
    from san_tf.retrieval.cross_camera import similarity_threshold

    if (options.threshold is None) == (options.calibration is None):
        raise UserError("Say how similar a person's tracks are: --threshold X, or --calibration FILE.")
    if options.threshold is not None:
        return float(options.threshold)
    place = Path(options.calibration)
    place = place / "assets.extra" / "calibration.json" if place.is_dir() else place
    return similarity_threshold(Calibration.load(place), options.false_accepts)


def _names(text: str) -> tuple[str, str]:
    one, _, other = text.partition(":")
    if not one or not other or ":" in other:
        raise UserError(f"{one_line(text)!r} is not A:B, such as door:hall.")
    return one, other


def _travel(given: Sequence[str]) -> dict[tuple[str, str], float]:
    times = {}
    for text in given:
        if text.count(":") != 2 or not all(text.split(":")):
            raise UserError(f"{one_line(text)!r} is not A:B:S, such as door:hall:5.")
        one, other, seconds = text.split(":")
        try:
            times[one, other] = float(seconds)
        except ValueError:
            times[one, other] = math.nan
        if not 0 <= times[one, other] < math.inf:
            raise UserError(f"{one_line(text)!r} has no number of seconds; give A:B:S, such as door:hall:5.")
    return times
