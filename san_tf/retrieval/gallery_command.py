"""Galleries: stored embeddings of photographs, for `san-tf search`.

    san-tf gallery add DB --images FOLDER --model saved_models/market/1
    san-tf gallery add DB --features features.parquet [--images FOLDER]
    san-tf gallery info|list|delete|export|check DB

DB is a folder, `milvus:FILE.db` for Milvus in a file, or `http://host:19530` for a Milvus server (its token
in the environment variable MILVUS_TOKEN). See also `san-tf gallery add --help` and so on.
Use galleries only from people you trust: a gallery decides what a search finds.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import Progress, SpinnerColumn, TextColumn

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, Terminal, printable, run_as_command
from san_tf.errors import UserError
from san_tf.retrieval.entries import Filter
from san_tf.retrieval.filter_flags import (
    add_filter_flags,
    as_json,
    entry_table,
    filter_of,
    print_table,
    whole_number,
)
from san_tf.retrieval.gallery import Gallery, GalleryInfo
from san_tf.retrieval.name_reader import MARKET, NameReader
from san_tf.retrieval.opening import check_gallery, open_gallery
from san_tf.start import import_tensorflow
from san_tf.trusted import remember_export, remember_images

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
        "add": (_add, "add photographs or a table of embeddings; keys in the gallery are skipped"),
        "info": (_info, "show the number of entries, the encoder, cameras and tags"),
        "list": (_list, "list entries in the order of their keys"),
        "delete": (_delete, "delete entries by key or filter"),
        "export": (_export, "export entries and embeddings to a Parquet file for `san-tf evaluate`"),
        "check": (_check, "check everything against its digests, and rebuild what can be rebuilt"),
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
    parsers["list"].add_argument(
        "--start", type=whole_number(0, 2**62), metavar="N", default=0, help="entries to skip"
    )
    parsers["list"].add_argument(
        "--limit", type=whole_number(1, 2**62), metavar="N", default=50, help="most entries to list"
    )
    for name in ("list", "info"):
        parsers[name].add_argument("--json", action="store_true", help="print JSON")
    parsers["delete"].add_argument("--keys", nargs="+", metavar="KEY", default=[], help="these entries")
    parsers["delete"].add_argument("--all", action="store_true", help="every entry")
    parsers["check"].add_argument(
        "--drop", action="store_true", help="delete damaged entries, so that they can be added again"
    )
    parsers["export"].add_argument("--out", metavar="FILE", required=True, help="file to write, .parquet")
    parsers["export"].add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    options: argparse.Namespace = parser.parse_args(argv)
    return options


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", nargs="+", metavar="PLACE", help="folders, .csv, .tar, .zip, image files")
    parser.add_argument("--model", metavar="EXPORT", help="saved_models/market, or one of its versions")
    parser.add_argument("--features", metavar="FILE", help="a table of `san-tf embed`, .parquet")
    parser.add_argument(
        "--camera_pattern",
        metavar="REGEX",
        default=MARKET,
        help="pattern of file names with groups `camera`, `pid`, `time`; default: that of Market-1501",
    )
    parser.add_argument("--tags", nargs="+", metavar="WORD", default=[], help="tags of all added entries")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="replace entries that are in the gallery already, for changed files, names or tags",
    )
    parser.add_argument(
        "--batch", type=whole_number(1, 2**16), metavar="N", default=32, help="photographs in a batch"
    )


def _add(options: argparse.Namespace) -> None:
    reader = NameReader(options.camera_pattern, tuple(options.tags))
    if options.features:
        if options.model:
            raise UserError("--model goes with --images; leave it out, since the table names its encoder.")
        _add_features(options, reader)
    elif options.images and options.model:
        _add_images(options, reader)
    else:
        raise UserError("Give --images and --model, or --features; see `san-tf gallery add --help`.")


def _add_images(options: argparse.Namespace, reader: NameReader) -> None:
    from san_tf.embedding.sources import left_out_summary, photographs

    # Report wrong places before TensorFlow starts, which takes seconds.
    for place in options.images:
        next(photographs([place]), None)
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.retrieval.adding import add_photographs, folder_of

    console, began = Terminal(), time.monotonic()
    encoder = ExportedEncoder(options.model)
    folder = folder_of(options.images)
    info = GalleryInfo(encoder.size, str(encoder.folder.resolve()), encoder.fingerprint, folder)
    columns = (SpinnerColumn(), TextColumn("Adding"), TextColumn("{task.fields[note]}"))
    with (
        open_gallery(options.gallery, create=info) as gallery,
        Progress(*columns, console=console, transient=True) as shown,
    ):
        remember_export(encoder.folder, encoder.fingerprint)
        if gallery.info.images == folder:
            remember_images(options.gallery, folder, folder)
        task = shown.add_task("", total=None, note="")

        def report(progress: bulk.Progress) -> None:
            shown.update(task, note=f"{progress.done:,} photographs · {progress.rate:,.0f} a second")

        others: Counter[str] = Counter()
        places = photographs(options.images, others)
        progress, passed = add_photographs(
            gallery, places, encoder, reader, options.batch, report, options.replace
        )
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
    from san_tf.retrieval.adding import FeatureRows

    console, began, added, passed = Terminal(), time.monotonic(), 0, 0
    left_out: dict[str, str] = {}
    rows = FeatureRows(options.features)
    if options.images and not (len(options.images) == 1 and Path(options.images[0]).is_dir()):
        raise UserError("With --features, --images must be the one folder that holds the photographs.")
    images = None if not options.images else os.path.abspath(options.images[0])
    with (
        open_gallery(
            options.gallery, GalleryInfo(rows.size, rows.model, rows.fingerprint, images)
        ) as gallery,
        console.status("Adding") as shown,
    ):
        if images is not None and images == gallery.info.images:
            remember_images(options.gallery, images, images)
        root = gallery.info.images
        for features, entries in rows.batches(reader, None if root is None else Path(root), left_out):
            known = set() if options.replace else gallery.known([entry.key for entry in entries.values()])
            new = [number for number, entry in entries.items() if entry.key not in known]
            gallery.add(features[new], [entries[number] for number in new])
            added, passed = added + len(new), passed + len(entries) - len(new)
            shown.update(f"Adding {added + passed:,} of {len(rows):,}")
        gallery.optimize()
        total = len(gallery)
    _tell_left_out(options.gallery, console, left_out)
    _tell_added(options, console, added, passed, total, began)


def _tell_added(
    options: argparse.Namespace, console: Terminal, added: int, passed: int, total: int, began: float
) -> None:
    known = f"; {passed:,} were in it already and were skipped (--replace adds them again)" if passed else ""
    seconds = time.monotonic() - began
    console.print(
        f"{options.gallery}: {added:,} added{known}; {total:,} entries now, {seconds:.0f} s",
        markup=False,
        soft_wrap=True,
    )


def _tell_left_out(gallery: str, console: Terminal, left_out: Mapping[str, str]) -> None:
    """List unusable photographs: in a file beside a gallery on this machine, else on the screen."""
    if not left_out:
        return
    if "://" in gallery:
        for name, problem in list(left_out.items())[:20]:
            console.print(f"{name} {problem}", markup=False, soft_wrap=True)
        console.print(f"{len(left_out):,} photographs could not be used.")
        return
    listed = Path(f"{gallery.removeprefix('milvus:')}.left_out.csv")
    _write_table(listed, [("path", "problem"), *left_out.items()])
    console.print(
        f"{len(left_out):,} photographs could not be used; {listed} lists them with the reasons.",
        markup=False,
        soft_wrap=True,
    )


def _write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([printable(cell) for cell in row] for row in rows)


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
        print(printable(f"{name.replace('_', ' '):15}{'' if shown is None else shown}"))


def _list(options: argparse.Namespace) -> None:
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        entries = gallery.entries(where, options.start, options.limit)
        total = len(gallery)
    if options.json:
        print(json.dumps([as_json(entry) for entry in entries], indent=2))
        return
    console = Terminal()
    print_table(console, entry_table(entries))
    console.print(f"{len(entries):,} of {total:,} entries")


def _delete(options: argparse.Namespace) -> None:
    where = filter_of(options)
    chosen = [bool(options.keys), where != Filter(), options.all]
    if sum(chosen) != 1:
        raise UserError("Name the entries to delete by --keys, by a filter such as --cameras, or with --all.")
    with open_gallery(options.gallery) as gallery:
        _refuse_mistyped(gallery, options, where)
        deleted = gallery.delete(options.keys) if options.keys else gallery.delete(where=where)
        left = len(gallery)
    print(printable(f"{options.gallery}: {deleted:,} deleted, {left:,} entries now"))


def _refuse_mistyped(gallery: Gallery, options: argparse.Namespace, where: Filter) -> None:
    """Refuse keys and filters without entries: after a typo, users would believe them deleted."""
    known = gallery.known(options.keys)
    unknown = [key for key in options.keys if key not in known]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{options.gallery} holds no entry {unknown[0]}{more}, so nothing was deleted; "
            "`san-tf gallery list` shows its keys."
        )
    if where != Filter() and not gallery.entries(where, limit=1):
        raise UserError(
            f"No entry of {options.gallery} passes these filters, so nothing was deleted; "
            "`san-tf gallery info` shows its cameras and tags."
        )


def _check(options: argparse.Namespace) -> None:
    console = Terminal()
    with console.status("Checking"):
        found = check_gallery(options.gallery, options.drop)
    for what in found.made:
        console.print(f"{what}: rebuilt")
    if not found.damaged:
        print(printable(f"{options.gallery}: {found.entries:,} entries, all as they were written"))
        return
    listed = Path(f"{options.gallery.rstrip('/')}.damaged.csv")
    _write_table(listed, [("key",), *((key,) for key in found.damaged)])
    number = len(found.damaged)
    if not options.drop:
        raise UserError(
            f"{number:,} of {found.entries:,} entries of {options.gallery} are damaged, listed in {listed}; "
            "restore a backup, or delete them with --drop and add them again."
        )
    print(
        printable(
            f"{options.gallery}: {number:,} damaged entries deleted, listed in {listed}; add them again"
        )
    )


def _export(options: argparse.Namespace) -> None:
    from san_tf.retrieval.adding import export_rows

    if Path(options.out).exists() and not options.overwrite:
        raise UserError(f"{options.out} exists already; name another file, or add --overwrite.")
    where = filter_of(options)
    with open_gallery(options.gallery, read_only=True) as gallery:
        written = export_rows(gallery, options.out, where)
    print(printable(f"{options.out}: {written:,} entries"))
