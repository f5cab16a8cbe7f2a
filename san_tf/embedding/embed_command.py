"""Embed photographs in bulk: `san-tf embed IMAGES --model saved_models/market/1 --out features.parquet`.

IMAGES are folders, tables (.csv with a column `path`), archives (.tar, .zip) or single files: JPEG, PNG, and
other formats that Pillow reads. With --tracks they are videos or folders of frames, and the table has one
embedding per track. To resume an interrupted run, give the same command again. Unusable photographs are left
out, counted by kind, and listed in a file beside the table.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress, SpinnerColumn, TextColumn

from san_tf.command_line import Parser, Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.start import import_tensorflow

if TYPE_CHECKING:
    from san_tf.embedding import bulk
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.embedding.feature_table import FeatureTable


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf embed", description=__doc__)
    required: dict[str, Any] = {"required": True, "default": argparse.SUPPRESS}
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument(
        "--model", metavar="EXPORT", help="saved_models/market, or one of its versions", **required
    )
    parser.add_argument("--out", metavar="FILE", help="the table to write, .parquet", **required)
    parser.add_argument("--tracks", nargs="+", metavar="FILE", help="MOT files, one per video", default=[])
    parser.add_argument("--per_track", type=int, metavar="N", default=16, help="most crops per track")
    parser.add_argument(
        "--first_frame", type=int, metavar="N", default=1, help="number of the tracks' first frame, 0 or 1"
    )
    parser.add_argument(
        "--boxes",
        choices=("sizes", "corners"),
        help="the tracks' 5th and 6th number: width, height (sizes), or x2, y2 (corners)",
    )
    parser.add_argument("--batch", type=int, metavar="N", default=32, help="images in a batch")
    parser.add_argument("--runner", metavar="NAME", help="embed with this runner of Apache Beam")
    parser.add_argument(
        "--runner_options", nargs="+", metavar="KEY=VALUE", default=[],
        help="options of the runner, such as direct_num_workers=2",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the table if it exists")
    options: argparse.Namespace = parser.parse_args(argv)
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}; give a number from 1.")
    if options.per_track < 1:
        raise UserError(f"--per_track is {options.per_track}; give a number from 1.")
    if options.first_frame not in (0, 1):
        raise UserError(f"--first_frame is {options.first_frame}; give 0 or 1.")
    try:
        options.out.encode()
    except UnicodeEncodeError:
        raise UserError("The name of --out is not UTF-8; give it another one.") from None
    if options.tracks and len(options.tracks) != len(options.images):
        raise UserError(
            f"There are {len(options.images)} videos and {len(options.tracks)} files of tracks; give one "
            "file of tracks per video."
        )
    if options.runner and options.tracks:
        raise UserError("Tracks of videos are embedded on this machine; leave out --runner.")
    if options.runner_options and not options.runner:
        raise UserError("--runner_options goes with --runner; add it.")
    if Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""

    def action() -> None:
        options = _parse(argv)
        (_run_beam if options.runner else _run)(options)

    run_as_command(action)


def _run(options: argparse.Namespace) -> None:
    from san_tf.embedding.sources import photographs

    # Report wrong places before TensorFlow starts, which takes seconds.
    for place in options.images if not options.tracks else ():
        next(photographs([place]), None)
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.embedding.feature_table import FeatureTable
    from san_tf.trusted import remember_export

    console, began = Terminal(), time.monotonic()
    what = "tracks" if options.tracks else "photographs"
    encoder = ExportedEncoder(options.model)
    remember_export(encoder.folder, encoder.fingerprint)
    notes: dict[str, Any] = {"model": str(encoder.folder.resolve()), "fingerprint": encoder.fingerprint}
    notes["encoder"] = encoder.metadata
    if options.tracks:
        notes["crops of a track"] = options.per_track
    table = FeatureTable(options.out, notes)
    columns = (SpinnerColumn(), TextColumn("Embedding"), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("", total=None, note="")

        def report(progress: bulk.Progress) -> None:
            left_out = f" · {len(progress.left_out):,} left out" if progress.left_out else ""
            shown.update(task, note=f"{progress.done:,} {what} · {progress.rate:,.0f} a second{left_out}")

        others: Counter[str] = Counter()
        listed: dict[str, str] = {}
        progress = _embed(options, encoder, table, others, listed, report)
    resumed = f", {progress.resumed:,} of them from an earlier run" if progress.resumed else ""
    _tell(options, console, progress.embedded, progress.left_out, others, listed)
    seconds = time.monotonic() - began
    console.print(f"{encoder.size} numbers each{resumed}; {progress.rate:,.0f} a second, {seconds:.0f} s")


def _run_beam(options: argparse.Namespace) -> None:
    if Path(options.out).suffix.lower() != ".parquet":
        raise UserError(f"{options.out} is not the name of a Parquet file; let it end in .parquet.")
    from san_tf.embedding.sources import photographs
    from san_tf.serving.servable import newest_export

    model = newest_export(options.model)
    try:
        from san_tf.embedding.beam_pipeline import embed_by_beam
    except ImportError as error:
        raise UserError("Apache Beam is not installed; run pip install 'san-tf[tfds,parquet]'.") from error
    flags = [f"--{option}" for option in options.runner_options]
    others: Counter[str] = Counter()
    listed: dict[str, str] = {}
    places = photographs(options.images, others, listed)
    embedded, left_out = embed_by_beam(places, model, options.out, options.runner, flags, options.batch)
    _tell(options, Terminal(), embedded, left_out, others, listed)


def _tell(
    options: argparse.Namespace,
    console: Terminal,
    embedded: int,
    left_out: Mapping[str, str],
    others: Mapping[str, int],
    listed: Mapping[str, str],
) -> None:
    """Say what was embedded; count what was left out by kind, and list it in a file beside the table."""
    from san_tf.embedding.feature_table import left_out_list, people_and_cameras, write_left_out
    from san_tf.embedding.sources import left_out_summary

    what = "tracks" if options.tracks else "photographs"
    known = people_and_cameras(options.out)
    lines = [f"{options.out}: embeddings of {embedded:,} {what}{known}"]
    what = "tracks, frames and boxes" if options.tracks else what
    lines.append(left_out_summary(left_out, others, what))
    write_left_out(options.out, {**left_out, **listed})
    if left_out:
        lines.append(
            f"{len(left_out):,} {what} could not be used; {left_out_list(options.out)} lists them with the "
            "reasons."
        )
    elif listed:
        lines.append(f"{left_out_list(options.out)} lists what was not read.")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _embed(
    options: argparse.Namespace,
    encoder: ExportedEncoder,
    table: FeatureTable,
    others: Counter[str],
    listed: dict[str, str],
    report: Callable[[bulk.Progress], None],
) -> bulk.Progress:
    from san_tf.embedding.bulk import embed_photographs
    from san_tf.embedding.sources import photographs
    from san_tf.embedding.tracks import embed_videos

    if not options.tracks:
        places = photographs(options.images, others, listed)
        return embed_photographs(places, encoder, table, options.batch, report)
    videos = list(zip(options.images, options.tracks, strict=True))
    return embed_videos(
        videos,
        encoder,
        table,
        options.per_track,
        options.batch,
        report,
        options.first_frame,
        options.boxes,
        others,
    )
