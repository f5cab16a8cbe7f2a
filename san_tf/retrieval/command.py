"""Galleries: photographs or embeddings that are kept to be searched (`san-tf search`).

    san-tf gallery add DB --images FOLDER --model saved_models/market/1
    san-tf gallery add DB --features features.parquet [--images FOLDER]
    san-tf gallery info|list|delete|export DB

DB is a folder that is made, `milvus:FILE.db` for Milvus in a file, or `http://host:19530` for a Milvus
server (its token in the environment variable MILVUS_TOKEN). `san-tf gallery add --help` and so on tell more.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, import_tensorflow, run_as_command
from san_tf.errors import UserError
from san_tf.retrieval.entries import Filter
from san_tf.retrieval.filter_flags import add_filter_flags, as_json, entry_table, filter_of
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.names import MARKET, NameReader
from san_tf.retrieval.opening import open_gallery

if TYPE_CHECKING:
    from san_tf.embedding import bulk


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""

    def action() -> None:
        options = _parse(argv)
        options.action(options)

    run_as_command(action)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="san-tf gallery",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    actions = {
        "add": (_add, "photographs, or a table of embeddings; what is in the gallery is passed over"),
        "info": (_info, "how many entries, whose embeddings, which cameras and tags"),
        "list": (_list, "entries, by their keys"),
        "delete": (_delete, "entries, by key or filter"),
        "export": (_export, "entries and embeddings into a Parquet file, as `san-tf evaluate` reads it"),
    }
    parsers = {}
    for name, (action, told) in actions.items():
        parsers[name] = commands.add_parser(name, help=told, description=f"{told[0].upper()}{told[1:]}.")
        parsers[name].set_defaults(action=action)
        parsers[name].add_argument(
            "gallery", metavar="DB", help="a folder, milvus:FILE.db, or a Milvus address"
        )
    _add_flags(parsers["add"])
    for name in ("list", "delete", "export"):
        add_filter_flags(parsers[name])
    parsers["list"].add_argument("--start", type=int, metavar="N", default=0, help="entries to pass over")
    parsers["list"].add_argument("--limit", type=int, metavar="N", default=50, help="entries at most")
    for name in ("list", "info"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON")
    parsers["delete"].add_argument("--keys", nargs="+", metavar="KEY", default=[], help="these entries")
    parsers["delete"].add_argument("--all", action="store_true", help="every entry")
    parsers["export"].add_argument("--out", metavar="FILE", required=True, help="the file, .parquet")
    parsers["export"].add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    options: argparse.Namespace = parser.parse_args(argv)
    return options


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PLACE", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument("--model", metavar="EXPORT", help="saved_models/market, or one of its versions")
    parser.add_argument("--features", metavar="FILE", help="a table that `san-tf embed` wrote, .parquet")
    parser.add_argument(
        "--camera_pattern",
        metavar="REGEX",
        default=MARKET,
        help="finds the groups `camera`, `pid` and `time` in a file's name; Market-1501's unless given",
    )
    parser.add_argument("--tags", nargs="+", metavar="WORD", default=[], help="of all that is added")
    parser.add_argument("--batch", type=int, metavar="N", default=32, help="pictures embedded at once")


def _add(options: argparse.Namespace) -> None:
    reader = NameReader(options.camera_pattern, tuple(options.tags))
    if options.batch < 1:
        raise UserError(f"--batch is {options.batch}; give a number from 1.")
    if options.features:
        if options.model:
            raise UserError("--model goes with --images; the table says which encoder its features are of.")
        _add_features(options, reader)
    elif options.images and options.model:
        _add_images(options, reader)
    else:
        raise UserError("Give --images and --model, or --features; see `san-tf gallery add --help`.")


def _add_images(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.embedding.sources import left_out_summary, photographs

    # Wrong places are told before TensorFlow takes its seconds to start.
    for place in options.images:
        next(photographs([place]), None)
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.retrieval.adding import add_photographs, folder_of

    console, began = Console(), time.monotonic()
    encoder = ExportedEncoder(options.model)
    folder = folder_of(options.images)
    info = GalleryInfo(encoder.size, str(encoder.folder.resolve()), encoder.fingerprint, folder)
    columns = (SpinnerColumn(), TextColumn("Adding"), TextColumn("{task.fields[note]}"))
    with (
        open_gallery(options.gallery, create=info) as gallery,
        Progress(*columns, console=console, transient=True) as shown,
    ):
        task = shown.add_task("", total=None, note="")

        def report(progress: bulk.Progress) -> None:
            shown.update(task, note=f"{progress.done:,} photographs · {progress.rate:,.0f} a second")

        others: Counter[str] = Counter()
        places = photographs(options.images, others)
        progress, passed = add_photographs(gallery, places, encoder, reader, options.batch, report)
        total = len(gallery)
    console.print(
        f"Taken: {progress.embedded:,} photographs, {progress.identities:,} identities, "
        f"{progress.cameras:,} cameras. {left_out_summary(progress.left_out, others)}",
        markup=False,
        soft_wrap=True,
    )
    _tell_left_out(options.gallery, console, progress.left_out)
    _tell_added(options, console, progress.embedded, passed, total, began)


def _add_features(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.retrieval.feature_rows import FeatureRows

    console, began, added, passed = Console(), time.monotonic(), 0, 0
    rows = FeatureRows(options.features)
    if options.images and not (len(options.images) == 1 and Path(options.images[0]).is_dir()):
        raise UserError("With --features, --images names the one folder that the photographs are in.")
    images = None if not options.images else os.path.abspath(options.images[0])
    with (
        open_gallery(
            options.gallery, GalleryInfo(rows.size, rows.model, rows.fingerprint, images)
        ) as gallery,
        console.status("Adding") as shown,
    ):
        root = gallery.info.images
        for features, entries in rows.batches(reader, None if root is None else Path(root)):
            known = gallery.known([entry.key for entry in entries])
            new = [number for number, entry in enumerate(entries) if entry.key not in known]
            gallery.add(features[new], [entries[number] for number in new])
            added, passed = added + len(new), passed + len(entries) - len(new)
            shown.update(f"Adding {added + passed:,} of {len(rows):,}")
        gallery.optimize()
        total = len(gallery)
    _tell_added(options, console, added, passed, total, began)


def _tell_added(
    options: argparse.Namespace, console: Console, added: int, passed: int, total: int, began: float
) -> None:
    known = f"; {passed:,} were in it already" if passed else ""
    seconds = time.monotonic() - began
    console.print(
        f"{options.gallery}: {added:,} added{known}; {total:,} entries now, {seconds:.0f} s",
        markup=False,
        soft_wrap=True,
    )


def _tell_left_out(gallery: str, console: Console, left_out: Mapping[str, str]) -> None:
    """List what could not be used: beside a gallery on this machine, else on the screen."""
    if not left_out:
        return
    if "://" in gallery:
        for name, problem in list(left_out.items())[:20]:
            console.print(f"{name} {problem}", markup=False, soft_wrap=True)
        console.print(f"{len(left_out):,} photographs could not be used.")
        return
    listed = Path(f"{gallery.removeprefix('milvus:')}.left_out.csv")
    with atomic_file(listed) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "problem"])
        table.writerows(left_out.items())
    console.print(
        f"{len(left_out):,} photographs could not be used; {listed} says which and why.",
        markup=False,
        soft_wrap=True,
    )


def _info(options: argparse.Namespace) -> None:
    with open_gallery(options.gallery, read_only=True) as gallery:
        info = gallery.info
        facts = {
            "entries": len(gallery),
            "embedding_size": info.size,
            "model": info.model or None,
            "fingerprint": info.fingerprint or None,
            "images": info.images,
            "cameras": gallery.cameras(),
            "tags": gallery.tags(),
        }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):15}{'' if shown is None else shown}")


def _list(options: argparse.Namespace) -> None:
    if options.start < 0 or options.limit < 1:
        raise UserError("--start is a number from 0, and --limit one from 1.")
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        entries = gallery.entries(where, options.start, options.limit)
        total = len(gallery)
    if options.json:
        print(json.dumps([as_json(entry) for entry in entries], indent=2))
        return
    console = Console()
    console.print(entry_table(entries))
    console.print(f"{len(entries):,} of {total:,} entries")


def _delete(options: argparse.Namespace) -> None:
    where = filter_of(options)
    chosen = [bool(options.keys), where != Filter(), options.all]
    if sum(chosen) != 1:
        raise UserError("Name the entries to delete by --keys, by a filter such as --cameras, or with --all.")
    with open_gallery(options.gallery) as gallery:
        deleted = gallery.delete(options.keys) if options.keys else gallery.delete(where=where)
        left = len(gallery)
    print(f"{options.gallery}: {deleted:,} deleted, {left:,} entries now")


def _export(options: argparse.Namespace) -> None:
    from san_tf.retrieval.feature_rows import export_rows

    if Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        written = export_rows(gallery, options.out, where)
    print(f"{options.out}: {written:,} entries")
