"""Measures identities over cameras on rendered video: `CrossCamera` against the same tracks without re-ID.

    python benchmarks/cross_camera.py [--videos FOLDER] [--model saved_models/synthetic/1]

Two videos with exact truth are rendered (`synthetic_video`), or taken from FOLDER if they are there: one of
three cameras to choose the threshold, and "street" of four cameras, with other people at other places. Boxes
are the true ones with errors of a detector: 3% of their size, 5% of them missing, and those of people who are
hidden by more than 70%. A tracker links them by overlap alone. `TrackEncoder` embeds the tracks, and
`CrossCamera` identifies them. The script prints a table and writes `results/cross_camera.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box as lines
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from san_tf import FrameEncoder, Track, TrackEncoder, open_gallery
from san_tf.atomic import atomic_file
from san_tf.embedding.tracks import Box, Tracks
from san_tf.evaluation import identity_scores
from san_tf.evaluation.identity_f1 import _overlaps
from san_tf.retrieval import CrossCamera, GalleryInfo
from san_tf.synthesis import synthetic_video
from san_tf.synthesis.video import VIDEOS

RESULTS = Path(__file__).parent / "results" / "cross_camera.json"
CONFIGS = {
    "tuning": replace(VIDEOS["street"], seed=7002, cameras=3, people=10, strangers=4, seconds=60.0),
    "street": VIDEOS["street"],
}
# Seconds out of sight after which a person returns; the tracker alone also loses people for moments.
ABSENCE = 2.5
THRESHOLDS = [round(0.40 + 0.025 * step, 3) for step in range(21)]
Corners = tuple[float, float, float, float]


def read_truth(camera: Path) -> dict[int, list[tuple[int, Corners, float]]]:
    """Person, box and visible share by frame."""
    truth: dict[int, list[tuple[int, Corners, float]]] = defaultdict(list)
    with (camera / "gt" / "gt.txt").open() as file:
        for row in csv.reader(file):
            left, top, width, height = map(float, row[2:6])
            truth[int(row[0])].append((int(row[1]), (left, top, width, height), float(row[8])))
    return truth


def link(truth: dict[int, list[tuple[int, Corners, float]]], seed: int) -> dict[int, list[Box]]:
    """Track detections by their overlap with where each track should be by now."""
    rng = np.random.default_rng(seed)
    tracks: dict[int, list[Box]] = {}
    going: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}  # last frame, box, movement a frame
    for frame in range(1, max(truth, default=0) + 1):
        detected = []
        for _, corners, visible in truth.get(frame, ()):
            error = rng.normal(0.0, 0.03, 4) * np.array([corners[2], corners[3]] * 2)
            if rng.random() > 0.05 and visible >= 0.3:
                detected.append(np.array(corners) + error)
        going = {number: track for number, track in going.items() if frame - track[0] <= 3}
        names = list(going)
        free = set(range(len(detected)))
        if names and detected:
            expected = np.stack(
                [going[name][1] + going[name][2] * (frame - going[name][0]) for name in names]
            )
            shared = _overlaps(expected, np.stack(detected))
            for one, other in zip(*linear_sum_assignment(shared, maximize=True), strict=True):
                if shared[one, other] >= 0.2:
                    last, former, _ = going[names[one]]
                    step = (detected[other] - former) / (frame - last)
                    going[names[one]] = (frame, detected[other], step * np.array([1, 1, 0, 0]))
                    tracks[names[one]].append(Box(frame, *detected[other].tolist()))
                    free.discard(int(other))
        for other in sorted(free):
            number = len(tracks) + 1
            tracks[number] = [Box(frame, *detected[other].tolist())]
            going[number] = (frame, detected[other], np.zeros(4))
    return tracks


class Video:
    """A rendered video: its truth, and the tracks of all cameras with their embeddings."""

    def __init__(self, folder: Path, seed: int, encode: FrameEncoder, fps: int, best: int) -> None:
        self.truth: dict[Any, dict[int, Corners]] = {}
        self.boxes: dict[str, list[tuple[Any, Corners]]] = {}
        self.tracks: list[Track] = []
        self.person: dict[str, int] = {}
        for number, camera in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
            truth = read_truth(camera)
            for frame, people in truth.items():
                self.truth[camera.name, frame] = {person: corners for person, corners, _ in people}
            linked = link(truth, seed + number)
            for track in TrackEncoder(encode, camera.name, best=best).embed_video(
                camera / "img1", Tracks(linked, {}), fps=fps
            ):
                self.tracks.append(track)
                own = [((camera.name, box.frame), box[1:]) for box in linked[track.track]]
                self.boxes[track.key] = own
                votes: Counter[int] = Counter()
                for place, corners in own:
                    for person, true in self.truth.get(place, {}).items():
                        votes[person] += _overlaps(np.array([corners]), np.array([true]))[0, 0] >= 0.5
                self.person[track.key] = votes.most_common(1)[0][0] if votes else -1

    def identify(self, threshold: float, live: bool) -> dict[str, int]:
        """Identities by track; live: each track alone, when it ends."""
        with tempfile.TemporaryDirectory() as folder:
            info = GalleryInfo(len(self.tracks[0].embedding))
            with open_gallery(Path(folder) / "people.gallery", create=info) as gallery:
                people = CrossCamera(gallery, threshold, travel=self.travel())
                order = sorted(self.tracks, key=lambda track: track.last)
                parts = [[track] for track in order] if live else [order]
                return {one.track.key: one.pid for part in parts for one in people.add(part)}

    def travel(self) -> dict[tuple[str, str], float]:
        """The shortest travel time of the configuration, between all cameras."""
        cameras = sorted({track.camera for track in self.tracks})
        shortest = VIDEOS["street"].travel[0]
        return {(a, b): shortest for place, a in enumerate(cameras) for b in cameras[place + 1 :]}

    def score(self, pids: dict[str, int]) -> dict[str, float | int]:
        """IDF1 over cameras, returns that were recognised, and newcomers that were not taken for others."""
        found: dict[Any, dict[int, Corners]] = defaultdict(dict)
        for key, pid in pids.items():
            for place, corners in self.boxes[key]:
                found[place][pid] = corners
        scores = identity_scores(self.truth, found)
        seen: dict[int, Counter[int]] = defaultdict(Counter)  # identities that a person had so far
        until: dict[int, float] = {}
        returns = recognised = newcomers = rejected = 0
        for track in sorted(self.tracks, key=lambda track: track.first):
            person, pid = self.person[track.key], pids[track.key]
            if seen[person]:
                if track.first >= until[person] + ABSENCE:
                    returns += 1
                    recognised += pid == seen[person].most_common(1)[0][0]
            else:
                newcomers += 1
                rejected += all(pid not in other for other in seen.values())
            seen[person][pid] += 1
            until[person] = max(track.last, until.get(person, track.last))
        return {
            "idf1": round(scores.idf1, 4), "idp": round(scores.precision, 4), "idr": round(scores.recall, 4),
            "returns": returns, "recognised": recognised, "newcomers": newcomers, "rejected": rejected,
            "identities": len(set(pids.values())),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", default="", help="folder to keep the videos in")
    parser.add_argument("--model", default="saved_models/synthetic/1", help="export, or a file for a runtime")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(given.videos or temporary)
        for name, config in CONFIGS.items():
            if not (root / name).is_dir():
                synthetic_video(root / name, config)
        encode = FrameEncoder(given.model)
        first, second = (
            Video(root / name, config.seed, encode, config.fps, 8) for name, config in CONFIGS.items()
        )
        street = CONFIGS["street"]
        single = Video(root / "street", street.seed, encode, street.fps, 1)
    sweep = {threshold: first.score(first.identify(threshold, live=True))["idf1"] for threshold in THRESHOLDS}
    best = max(sweep.values())
    # The middle of the best thresholds.
    chosen = [threshold for threshold, idf1 in sweep.items() if idf1 >= best - 0.01]
    threshold = chosen[len(chosen) // 2]
    alone = {track.key: number for number, track in enumerate(second.tracks)}
    results = {
        "without re-ID": second.score(alone),
        "CrossCamera, live": second.score(second.identify(threshold, live=True)),
        "CrossCamera, all at once": second.score(second.identify(threshold, live=False)),
        "CrossCamera, live, one crop a track": single.score(single.identify(threshold, live=True)),
        "true identities of the tracks": second.score(second.person),
    }
    around = {
        str(other): second.score(second.identify(other, live=True))["idf1"] for other in THRESHOLDS[::2]
    }
    table = Table(box=lines.SIMPLE_HEAD)
    for column in ("", "IDF1", "returns recognised", "newcomers not taken for others", "identities"):
        table.add_column(column, justify="right" if column else "left")
    for name, row in results.items():
        table.add_row(
            name, f"{100 * row['idf1']:.1f}", f"{row['recognised']} of {row['returns']}",
            f"{row['rejected']} of {row['newcomers']}", str(row["identities"]),
        )  # fmt: skip
    Console().print(table, f"threshold {threshold}, chosen on the first video; IDF1 by threshold: {around}")
    people = len({person for boxes in second.truth.values() for person in boxes})
    record = {
        "model": given.model, "threshold": threshold, "people": people, "tracks": len(second.tracks),
        "idf1_of_first_by_threshold": {str(key): value for key, value in sweep.items()},
        "idf1_by_threshold": around, "results": results,
    }  # fmt: skip
    with atomic_file(RESULTS) as file:
        file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
