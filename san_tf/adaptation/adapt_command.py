"""Adapt an encoder to your cameras: `san-tf adapt CROPS --model runs/people --out adapted`.

CROPS are folders, tables (.csv with a column `path`), archives (.tar, .zip) or single files. Identities are
not needed. Cameras help: they are read from a table's column `camera`, from names as in Market-1501, or by
--camera_pattern or --camera_folders. The result is a preset, `adapted/preset`, and an export,
`adapted/saved_model/1`. To resume an interrupted adaptation, give the same command again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from san_tf.command_line import Parser, Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.progress import with_bar
from san_tf.resources import core_count
from san_tf.retrieval.filter_flags import print_table, whole_number
from san_tf.retrieval.gallery import FIRST_NAMED
from san_tf.retrieval.name_reader import MARKET, NameReader
from san_tf.start import import_tensorflow

if TYPE_CHECKING:
    import keras

    from san_tf.adaptation.clustering import Answers
    from san_tf.adaptation.rounds import AdaptationResult, AdaptationSettings
    from san_tf.data.records import Records
    from san_tf.embedding.sources import Photograph


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf adapt", description=__doc__)
    count = whole_number(1, 2**20)
    parser.add_argument("crops", nargs="+", metavar="CROPS", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        required=True,
        help="a preset folder, a run directory, a .weights.h5 file, or painting; an export only if it was "
        "written with its trainable weights",
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, help="folder of the result")
    parser.add_argument("--rounds", type=count, metavar="N", default=12, help="most rounds")
    parser.add_argument(
        "--epochs", type=count, metavar="N", default=6, help="passes over the crops in a round"
    )
    parser.add_argument(
        "--norms",
        action="store_true",
        help="the first round only fits the batch norms to the crops, which takes seconds and is kept "
        "whatever its score; with --rounds 1, that is all",
    )
    parser.add_argument(
        "--patience",
        type=whole_number(0, 2**20),
        metavar="N",
        default=3,
        help="end after this many rounds without a better score; 0 never",
    )
    parser.add_argument(
        "--distance",
        type=float,
        metavar="X",
        help="largest Jaccard distance within clusters, such as 0.6; by default the one with the best score",
    )
    parser.add_argument(
        "--fewest", type=count, metavar="N", default=4, help="near crops that make a cluster, itself included"
    )
    parser.add_argument("--k1", type=count, metavar="N", default=14, help="neighbours that describe a crop")
    parser.add_argument(
        "--camera_level",
        type=whole_number(0, 2**20),
        metavar="N",
        default=10,
        help="nearest crops of a camera that distances to it are measured from, so that crops of two cameras "
        "compare with those of one; 0 takes distances as they are, for cameras that hardly share people",
    )
    parser.add_argument(
        "--clusters_per_batch",
        type=whole_number(2, 2**12),
        metavar="P",
        default=16,
        help="clusters in a batch",
    )
    parser.add_argument(
        "--crops_per_cluster", type=count, metavar="K", default=4, help="crops of each cluster in a batch"
    )
    parser.add_argument("--learning_rate", type=float, metavar="X", default=3.5e-4, help="highest of a round")
    parser.add_argument("--seed", type=whole_number(0, 2**31), metavar="N", default=0, help="of the batches")
    parser.add_argument(
        "--camera_pattern",
        metavar="REGEX",
        default=MARKET,
        help="pattern of file names with a group `camera`; with a / in it, of paths; default: Market-1501's",
    )
    parser.add_argument(
        "--camera_folders",
        action="store_true",
        help="the camera is the folder of a crop below the named one, such as door or hall/2",
    )
    parser.add_argument(
        "--answers",
        metavar="FILE",
        help="pairs that somebody answered, which clusters obey, .csv: first, second, same (yes, no, cannot "
        "tell)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="cluster once and show what would be trained; nothing is written",
    )
    options: argparse.Namespace = parser.parse_args(argv)
    out = Path(options.out)
    if not options.dry_run and out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder for the result.")
    return options


@dataclass
class Crops:
    """Crops as they were found.

    Attributes:
        contents: upright JPEG or PNG files.
        names: their names.
        cameras: cameras as numbers; -1 is unknown.
        pids: identities where a table or a name tells them, only for the report; -1 is unknown.
        left_out: problems of others, by name.
        duplicates: number of files that are byte for byte one of the others, and were left out.
        copies: their names, with that of the one that was kept.
        others: numbers of ignored files by kind.
    """

    contents: list[bytes] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    cameras: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0
    copies: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)


def read_crops(
    places: Sequence[str],
    reader: NameReader,
    description: str | None = "Reading",
) -> Crops:
    """Read crops with their cameras; damaged files and copies are left out.

    Args:
        places: folders, tables, archives and files, see `san_tf.embedding.sources.photographs`.
        reader: finds cameras in names, folders and tables.
        description: of the progress bar; None for no bar.

    Raises:
        UserError: a place does not exist, or a camera cannot be read.
    """
    from san_tf.embedding.bulk import read_photograph, shown
    from san_tf.embedding.sources import photographs

    crops = Crops()
    seen: dict[bytes, str] = {}
    named: dict[str, int] = {}
    for place in places:
        found = list(photographs([place], crops.others))
        with ThreadPoolExecutor(2 * core_count()) as pool:
            for item in with_bar(pool.map(read_photograph, found), description, len(found)):
                name = item.photograph.name
                if item.problem or not item.content:
                    crops.left_out[shown(name)] = item.problem or "is empty"
                    continue
                digest = hashlib.sha256(item.content).digest()
                if digest in seen:
                    crops.duplicates += 1
                    if shown(name) != seen[digest]:  # or else the file was named twice
                        crops.copies[shown(name)] = seen[digest]
                    continue
                seen[digest] = shown(name)
                pid, camera = _identity_and_camera(item.photograph, place, reader, named)
                crops.contents.append(item.content)
                crops.names.append(name)
                crops.cameras.append(camera)
                crops.pids.append(pid)
    return crops


def _identity_and_camera(
    photograph: Photograph, place: str, reader: NameReader, named: dict[str, int]
) -> tuple[int, int]:
    # A table may name its people, which the reader, made for galleries, expects as numbers.
    identity = photograph.columns.get("identity", "")
    columns = {key: value for key, value in photograph.columns.items() if key in _OF_CAMERAS}
    columns |= {key: value for key, value in photograph.columns.items() if key in ("pid", "pids")}
    path = os.path.relpath(photograph.name, os.path.dirname(os.path.abspath(place)) or ".")
    entry = reader.entry(
        photograph.name,
        "",
        columns,
        path if os.path.isdir(place) else "",
        lambda name: named.setdefault(name, FIRST_NAMED + len(named)),
    )
    if identity.strip():
        return 1 + int.from_bytes(hashlib.sha256(identity.strip().encode()).digest()[:6], "big"), entry.camera
    return -1 if entry.pid is None else entry.pid, entry.camera


_OF_CAMERAS = ("camera", "camid", "camids")


def records_of(crops: Crops) -> Records:
    """Make records of crops; those that TensorFlow cannot decode are moved to `left_out`."""
    from san_tf.data.records import Records, undecodable

    contents = np.empty(len(crops.contents), object)
    contents[:] = crops.contents
    for index in sorted(undecodable(contents), reverse=True):
        crops.left_out[crops.names[index]] = "is damaged: it cannot be decoded"
        for column in (crops.contents, crops.names, crops.cameras, crops.pids):
            del column[index]
    return Records.from_columns(crops.contents, crops.pids, crops.cameras, crops.names, verify=False)


def _run(options: argparse.Namespace) -> None:
    reader = NameReader(options.camera_pattern, folders=options.camera_folders)
    console = Terminal()
    # Report wrong places and values before TensorFlow starts, which takes seconds.
    crops = read_crops(options.crops, reader)
    import_tensorflow()
    from san_tf.adaptation.rounds import adapt, first_clusters
    from san_tf.adaptation.start_encoder import trainable_encoder
    from san_tf.embedding.sources import left_out_summary

    settings = _settings(options)
    encoder = trainable_encoder(options.model)
    records = records_of(crops)
    lines = [_counted(records, crops)]
    if crops.left_out or crops.others:
        lines.append(left_out_summary(crops.left_out, crops.others, "crops"))
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    answers = _answers(options.answers, crops)
    if options.dry_run:
        entry, found = first_clusters(encoder, records, settings, answers)
        _table(console, [entry])
        console.print(_plan(options, settings, found.labels), markup=False, soft_wrap=True)
        return
    out = Path(options.out)

    def report(entry: dict[str, Any]) -> None:
        console.print(_line(entry, options.norms), markup=False, soft_wrap=True)

    result = adapt(encoder, records, out, settings, answers=answers, report=report, console=console)
    _table(console, list(result.states))
    _write(encoder, out, result, options)
    console.print(_told(result, out), markup=False, soft_wrap=True)


def _answers(path: str | None, crops: Crops) -> Answers | None:
    """Read answered pairs of crops; None without a file."""
    if path is None:
        return None
    from san_tf.adaptation.clustering import Answers
    from san_tf.embedding.bulk import shown
    from san_tf.evaluation.calibrate_command import answered_pairs

    names = [shown(name) for name in crops.names]
    kept = set(names)
    # A copy is answered for by the one that was kept, and a damaged crop by none.
    stand_ins = {name: one if one in kept else None for name, one in crops.copies.items()}
    stand_ins |= dict.fromkeys(map(shown, crops.left_out))
    pairs = answered_pairs(path, {"path": names}, "this adaptation has", stand_ins)
    return Answers(pairs.first, pairs.second, pairs.same)


def _settings(options: argparse.Namespace) -> AdaptationSettings:
    from san_tf.adaptation.clustering import ClusterSettings
    from san_tf.adaptation.rounds import AdaptationSettings

    return AdaptationSettings(
        rounds=options.rounds,
        epochs=options.epochs,
        patience=options.patience,
        clustering=ClusterSettings(
            options.distance, options.fewest, options.k1, camera_level=options.camera_level
        ),
        clusters_per_batch=options.clusters_per_batch,
        crops_per_cluster=options.crops_per_cluster,
        learning_rate=options.learning_rate,
        seed=options.seed,
        norms=options.norms,
    )


def _counted(records: Records, crops: Crops) -> str:
    cameras = records.camids[records.camids != -1]
    told = f"{len(np.unique(cameras))} cameras" if len(cameras) else "cameras unknown"
    unknown = len(records) - len(cameras)
    if len(cameras) and unknown:
        told += f" ({unknown:,} crops without one)"
    copies = f"; {crops.duplicates:,} copies left out" if crops.duplicates else ""
    return f"{len(records):,} crops, {told}{copies}"


def _plan(options: argparse.Namespace, settings: AdaptationSettings, labels: np.ndarray) -> str:
    from san_tf.adaptation.contrast import cluster_steps

    if options.norms and settings.rounds == 1:
        return f"The batch norms would be fitted to the crops for {options.out}; nothing was written."
    clusters = int(labels.max()) + 1
    if clusters < 2:
        return "Nothing could be trained: at least two clusters are needed; change --distance or add crops."
    per_batch = min(settings.clusters_per_batch, clusters)
    steps = cluster_steps(labels, per_batch, settings.crops_per_cluster)
    images = steps * per_batch * settings.crops_per_cluster
    return (
        f"Up to {settings.rounds} rounds of {settings.epochs} epochs of {steps} steps, {images:,} crops an "
        f"epoch, would be trained for {options.out}"
        + ("; the first only fits the batch norms" if options.norms else "")
        + "; nothing was written."
    )


_COLUMNS = (
    "round",
    "clusters",
    "outliers",
    "change",
    "distance",
    "silhouette",
    "stability",
    "spanning",
    "score",
)
_KNOWN = ("people", "purity", "gathered")


def _shown(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _line(entry: dict[str, Any], norms: bool) -> str:
    what = "start" if entry["round"] == 0 else f"round {entry['round']}"
    if norms and entry["round"] == 1:
        what += ", norms alone"
    changed = "" if entry["change"] is None else f", change {entry['change']:.2f}"
    return (
        f"{what}: {entry['clusters']:,} clusters, {entry['outliers']:,} outliers{changed}, score "
        f"{entry['score']:.3f}"
    )


def _table(console: Terminal, states: Sequence[dict[str, Any]]) -> None:
    columns = [*_COLUMNS, *(name for name in _KNOWN if name in states[0])]
    table = Table(*columns, box=box.SIMPLE_HEAD)
    for entry in states:
        table.add_row(*(_shown(entry[name]) for name in columns))
    print_table(console, table)


def _write(encoder: keras.Model, out: Path, result: AdaptationResult, options: argparse.Namespace) -> None:
    from san_tf.models.preset_folder import save_to_preset
    from san_tf.models.san import SAN  # noqa: F401  # what a preset may hold
    from san_tf.serving.encoder_export import export_encoder

    described = (
        f"Adapted by `san-tf adapt` from {options.model}, round {result.kept} of {len(result.states) - 1}."
    )
    card = {
        "description": described,
        "licence": "unknown",
        "weights": "All parts but the classifier are trained.",
        "training_data": "Crops of one's own cameras, without identities.",
    }
    save_to_preset(encoder, out / "preset", card)
    _, height, width, _ = encoder.input.shape
    export_encoder(
        encoder,
        out / "saved_model",
        (int(height), int(width)),
        flip=True,
        metadata={"adaptation": {"kept": result.kept, "states": list(result.states)}},
        overwrite=True,
    )


def _told(result: AdaptationResult, out: Path) -> str:
    where = f"{out / 'preset'}, {out / 'saved_model' / '1'}"
    if result.kept == 0:
        return (
            f"{result.note}: no round had a better score than the start, so {where} hold the encoder as it "
            "was given."
        )
    last = len(result.states) - 1
    later = "" if result.kept == last else f" (later rounds were worse, up to round {last})"
    return f"{result.note}: {where} hold the encoder after round {result.kept}{later}."
