"""What a score means at your site: `san-tf calibrate FEATURES --pairs pairs.csv --out calibration.json`.

FEATURES is a table of `san-tf embed`, .parquet. What is known of its people may be: pairs that somebody
answered (--pairs: a CSV with the columns `first`, `second` and `same`, of paths and yes or no); identities
(its column `pid`); or tracks (its columns `track` and `frame`: two crops of a track show one person, two
tracks in one frame do not). The result turns a score into a probability, and has a threshold for each wished
rate of false accepts that the data can vouch for on other people.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from san_tf.command_line import Parser, Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.calibration_fit import fit_pairs
from san_tf.evaluation.distances import l2_normalized
from san_tf.evaluation.operating_points import WISHED

_YES = {"1": True, "yes": True, "true": True, "same": True, "y": True}
_NO = {"0": False, "no": False, "false": False, "different": False, "n": False}
_UNTOLD = {"cannot tell", "unknown", "?"}
# Pairs of a kind that are compared; more add nothing to what the number of people allows.
_MOST_PAIRS = 400_000
# Pairs within one track: its crops are alike.
_MOST_OF_A_TRACK = 20


class Pairs(NamedTuple):
    """M pairs of rows.

    Attributes:
        first: `(M,)` int rows.
        second: `(M,)` int rows.
        same: `(M,)` bool.
        people: `(M, 2)` int, who is on each side.
        caveat: what these pairs cannot tell, one sentence; "" for nothing.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    people: np.ndarray
    caveat: str = ""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf calibrate", description=__doc__)
    parser.add_argument("features", metavar="FEATURES", help="a table of `san-tf embed`, .parquet")
    parser.add_argument("--out", metavar="FILE", required=True, help="the calibration to write, .json")
    parser.add_argument("--pairs", metavar="FILE", help="answered pairs, .csv: first, second, same")
    parser.add_argument(
        "--prior", type=float, metavar="X", default=0.001, help="how often a pair shows one person in use"
    )
    parser.add_argument(
        "--far", type=float, nargs="+", metavar="X", default=list(WISHED), help="wished false accept rates"
    )
    parser.add_argument("--seed", type=int, metavar="N", default=0, help="of the choice among many pairs")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options: argparse.Namespace = parser.parse_args(argv)
    for far in options.far:
        if not 0 < far < 1:
            raise UserError(f"--far is {far}, but it must lie between 0 and 1, such as 0.01.")
    return options


def _run(options: argparse.Namespace) -> None:
    columns = _read_table(options.features)
    features: np.ndarray = l2_normalized(np.asarray(columns["features"], np.float32))
    if not np.isfinite(features).all():
        raise UserError(f"{options.features} holds embeddings that are not finite; embed the crops again.")
    if options.pairs:
        pairs = answered_pairs(options.pairs, columns)
    else:
        pairs = known_pairs(options.features, columns, options.seed)
    distances = 1.0 - np.einsum("md,md->m", features[pairs.first], features[pairs.second])
    fitted = fit_pairs(distances, pairs.same, pairs.people, prior=options.prior, wished=options.far)
    fitted.save(options.out)
    _tell(options, fitted, pairs)


def _read_table(path: str) -> dict[str, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow; run pip install 'san-tf[parquet]'.") from error
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}; give a table of `san-tf embed`.")
    try:
        table = pyarrow.parquet.read_table(path)
        columns: dict[str, Any] = {name: table.column(name).to_pylist() for name in table.column_names}
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is not a Parquet file that can be read; embed the crops again.") from error
    for name in ("path", "features"):
        if name not in columns:
            raise UserError(f"{path} has no column {name}; give a table of `san-tf embed`.")
    if len(columns["path"]) < 2:
        raise UserError(f"{path} holds {len(columns['path'])} crops; a calibration needs pairs of them.")
    return columns


class Told(NamedTuple):
    """A line of a file of answers: two names, and whether both show one person; None if nobody can tell."""

    line: int
    first: str
    second: str
    same: bool | None


def read_answers(path: str | os.PathLike[str]) -> list[Told]:
    """Read a file of answers, .csv with the columns `first`, `second` and `same`; others are ignored.

    Args:
        path: the file.

    Raises:
        UserError: the file cannot be read, lacks a column, has another answer than yes, no or cannot tell, or
            has both for a pair.
    """
    told: list[Told] = []
    found: dict[frozenset[str], bool] = {}
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"first", "second", "same"} <= set(reader.fieldnames or ()):
                raise UserError(f"{path} must have the columns first, second and same in its first line.")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                first, second = row["first"] or "", row["second"] or ""
                if not first or not second:
                    raise UserError(f"{where}: a pair has two crops; name both, or leave the line out.")
                if first == second:
                    raise UserError(f"{where}: both crops are {first}; a pair has two.")
                answer = (row["same"] or "").strip().lower()
                if answer not in _YES and answer not in _NO and answer not in _UNTOLD:
                    raise UserError(f"{where}: same is {answer!r}; write yes, no or cannot tell.")
                same = None if answer in _UNTOLD else answer in _YES
                if same is not None and found.setdefault(frozenset((first, second)), same) != same:
                    raise UserError(f"{where}: the pair has both answers; keep one of them.")
                told.append(Told(reader.line_num, first, second, same))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    return told


def answered_pairs(
    path: str,
    columns: Mapping[str, Any],
    holder: str = "the table has",
    stand_ins: Mapping[str, str | None] | None = None,
) -> Pairs:
    """Read the pairs that somebody answered.

    A name in the file is a path of the table, or the end of one: `door/1.jpg` means `crops/door/1.jpg`. The
    page writes the keys of a gallery, which begin at its folder of images. Where several paths end so, those
    below the one folder that has all the names are meant.

    Args:
        path: CSV file with the columns `first`, `second` and `same`.
        columns: the table's columns; only `path` is used.
        holder: what lacks a crop that is named, for messages.
        stand_ins: paths of crops that the table does not have, and of those that stand for them, such as the
            kept one of two copies; None for none, and then their answers are passed over.

    Raises:
        UserError: the file cannot be read, names a crop that the table lacks or several may be, or has
            another answer than yes, no or cannot tell; or the same pair has both answers.
    """
    told = read_answers(path)
    stand_ins = stand_ins or {}
    rows: dict[str, int] = {name: number for number, name in enumerate(columns["path"])}
    paths = _located(path, told, [*rows, *(name for name in stand_ins if name not in rows)], holder)
    found: dict[tuple[int, int], bool] = {}
    for line, *names, same in told:
        meant = [paths[name] for name in names]
        kept = [name if name in rows else stand_ins[name] for name in meant]
        if same is None or None in kept:
            continue
        one, other = sorted(rows[name] for name in kept if name is not None)
        where = f"{path}, line {line}"
        if one == other:
            if meant[0] == meant[1]:
                raise UserError(f"{where}: both crops are {meant[0]}; a pair has two.")
            if not same:
                raise UserError(
                    f"{where}: {names[0]} and {names[1]} are copies, not two people; remove the line."
                )
        elif found.setdefault((one, other), same) != same:
            raise UserError(f"{where}: the pair has both answers; keep one of them.")
    pairs = np.array(list(found), np.int64).reshape(-1, 2)
    yes = np.array(list(found.values()), bool)
    return Pairs(pairs[:, 0], pairs[:, 1], yes, _people_of(pairs, yes, columns["path"]), _CHOSEN)


def _located(path: str, told: Sequence[Told], paths: Sequence[str], holder: str) -> dict[str, str]:
    """Find the path that each name of a file of answers means."""
    lines: dict[str, int] = {}
    for line, *names, _ in told:
        for name in names:
            lines.setdefault(name, line)
    ends: dict[str, list[str]] = {}
    for one in paths:
        ends.setdefault(one.rpartition("/")[2], []).append(one)
    below: dict[str, dict[str, str]] = {}
    for name, line in lines.items():
        ending = ends.get(name.rpartition("/")[2], [])
        below[name] = {one[: -len(name)]: one for one in ending if one == name or one.endswith(f"/{name}")}
        if not below[name]:
            raise UserError(f"{path}, line {line}: {holder} no crop {name!r}; add it, or correct the name.")
    shared = set.intersection(*map(set, below.values())) if below else set()
    folder = "" if "" in shared else shared.pop() if len(shared) == 1 else None
    found = {}
    for name, places in below.items():
        if folder in places:
            found[name] = places[folder]
        elif "" in places:
            found[name] = places[""]
        elif len(places) == 1:
            (found[name],) = places.values()
        else:
            some = sorted(places.values())
            raise UserError(
                f"{path}, line {lines[name]}: {name!r} may be {some[0]} or {some[1]}; write the whole path."
            )
    return found


def _people_of(pairs: np.ndarray, same: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Who is on each side: crops that answers join are one person."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    joined, crops = pairs[same], len(names)
    graph = coo_matrix((np.ones(len(joined)), (joined[:, 0], joined[:, 1])), shape=(crops, crops))
    _, person = connected_components(graph, directed=False)
    if (person[pairs[~same, 0]] == person[pairs[~same, 1]]).any():
        first, second = pairs[~same][person[pairs[~same, 0]] == person[pairs[~same, 1]]][0]
        raise UserError(
            f"The answers contradict each other: {names[first]} and {names[second]} are two people, but "
            "other answers join them; look at their pairs again."
        )
    return person[pairs]


def known_pairs(path: str, columns: Mapping[str, Any], seed: int = 0) -> Pairs:
    """Choose pairs by identities or, without these, by tracks.

    Args:
        path: name of the table, for messages.
        columns: its columns: `pids` and, where known, `camids`; or `track` and `frame`.
        seed: of the choice among many pairs.

    Raises:
        UserError: the table has neither.
    """
    number = len(columns["path"])
    cameras = np.array(
        [-1 if value is None else value for value in columns.get("camids", [-1] * number)], object
    )
    if "pids" in columns:
        pids = np.array([-1 if value is None else value for value in columns["pids"]], np.int64)
        if (pids > 0).any():
            return _of_identities(pids, cameras, np.random.default_rng(seed))
    if {"track", "frame"} <= set(columns):
        return _of_tracks(columns["track"], columns["frame"], columns.get("camera", cameras))
    raise UserError(
        f"{path} has neither identities (pid) nor tracks (track and frame), so nothing says who is who; "
        "answer pairs and give them with --pairs, or use the calibration that the export may carry."
    )


def _of_identities(pids: np.ndarray, cameras: np.ndarray, rng: np.random.Generator) -> Pairs:
    rows = np.flatnonzero(pids > 0)
    known = cameras[rows] != -1
    across = len(set(cameras[rows][known])) > 1
    first, second = _same_pairs(pids, rows)
    if across:
        # Crops of one person by one camera are alike, and nobody searches for them.
        apart = cameras[first] != cameras[second]
        first, second = first[apart], second[apart]
    if len(first) > _MOST_PAIRS:
        chosen = rng.choice(len(first), _MOST_PAIRS, replace=False)
        first, second = first[chosen], second[chosen]
    drawn = np.sort(rng.choice(rows, (2 * _MOST_PAIRS, 2)), axis=1)
    # As one number, because unique rows are slow.
    drawn = np.stack(np.divmod(np.unique(drawn[:, 0] * len(pids) + drawn[:, 1]), len(pids)), axis=1)
    drawn = drawn[pids[drawn[:, 0]] != pids[drawn[:, 1]]]
    if across:
        drawn = drawn[cameras[drawn[:, 0]] != cameras[drawn[:, 1]]]
    drawn = rng.permutation(drawn)[:_MOST_PAIRS]
    both = np.concatenate([np.stack([first, second], axis=1), drawn])
    same = np.arange(len(both)) < len(first)
    caveat = _TWO_CAMERAS if across else _ONE_CAMERA
    return Pairs(both[:, 0], both[:, 1], same, pids[both], caveat)


# On photographs of 150 people, two to fourteen times as many pairs of one camera passed a threshold.
_TWO_CAMERAS = (
    "All pairs are between two cameras: two people by one camera look more alike, so leave the query's own "
    "camera out of a search, or expect more false accepts there."
)
# On generated people, thresholds from pairs that the page chose let in less than they promised, while low
# scores got far too high probabilities: hard pairs are more frequent among them than in a search.
_CHOSEN = (
    "The pairs were chosen and not drawn at random: trust the thresholds more than the probabilities, which "
    "identities or tracks give better."
)
_ONE_CAMERA = (
    "All pairs are by one camera, or the cameras are unknown: between two cameras the same score means less, "
    "and this calibration cannot vouch for it."
)


def _same_pairs(
    groups: np.ndarray, rows: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of rows in one group; of large groups the first `most`."""
    ordered = rows[np.argsort(groups[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(groups[ordered])) + 1
    found = [np.empty((0, 2), np.int64)]
    for members in np.split(ordered, bounds):
        i, j = np.triu_indices(len(members), 1)
        if most is not None and len(i) > most:
            chosen = np.linspace(0, len(i) - 1, most).astype(int)
            i, j = i[chosen], j[chosen]
        found.append(np.stack([members[i], members[j]], axis=1))
    pairs = np.concatenate(found)
    return pairs[:, 0], pairs[:, 1]


def _of_tracks(tracks: Sequence[Any], frames: Sequence[Any], cameras: Sequence[Any]) -> Pairs:
    """Two crops of one track show one person; two tracks in one frame of a camera do not."""
    names = [f"{camera}/{track}" for camera, track in zip(cameras, tracks, strict=True)]
    moments = [f"{camera}/{frame}" for camera, frame in zip(cameras, frames, strict=True)]
    unknown = [track in (None, "") for track in tracks]
    groups = np.unique(names, return_inverse=True)[1]
    times = np.unique(moments, return_inverse=True)[1]
    rows = np.flatnonzero(~np.array(unknown))
    first, second = _same_pairs(groups, rows, _MOST_OF_A_TRACK)
    # The detector may give one person twice, but a track has one box in a frame.
    apart = times[first] != times[second]
    first, second = first[apart], second[apart]
    one, other = _same_pairs(times, rows)
    different = groups[one] != groups[other]
    both = np.concatenate(
        [np.stack([first, second], axis=1), np.stack([one[different], other[different]], axis=1)]
    )
    same = np.arange(len(both)) < len(first)
    return Pairs(both[:, 0], both[:, 1], same, groups[both], _ONE_CAMERA)


def _tell(options: argparse.Namespace, fitted: Calibration, pairs: Pairs) -> None:
    people = len(np.unique(pairs.people))
    if options.json:
        told = {"file": options.out, "people": people, "caveat": pairs.caveat, **fitted.to_dict()}
        print(json.dumps(told, indent=2))
        return
    console = Terminal()
    counted = (
        f"{fitted.num_same:,} pairs of one person and {fitted.num_different:,} of two, {people:,} people"
    )
    console.print(f"{options.out}: {counted}", markup=False, soft_wrap=True)
    table = Table("wished", "score from", "lets in", "at most (95 %)")
    for point in fitted.operating_points:
        promised = point.threshold is not None
        table.add_row(
            f"{point.far:g}",
            f"{1.0 - point.threshold:.3f}" if point.threshold is not None else "not promised",
            f"{100 * point.tar:.0f} %" if promised else "-",
            f"{point.far_bound:.2g}",
        )
    console.print(table)
    for line in (point.note for point in fitted.operating_points if point.threshold is None):
        console.print(line, markup=False, soft_wrap=True)
    if pairs.caveat:
        console.print(pairs.caveat, markup=False, soft_wrap=True)
