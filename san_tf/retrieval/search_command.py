"""Find a person's other photographs: `san-tf search --gallery DB --query crop.jpg --top 20`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from san_tf.command_line import Parser, Terminal, printable, run_as_command
from san_tf.data.quality import CropQuality, crop_quality
from san_tf.errors import UserError
from san_tf.image_formats import read_regular
from san_tf.retrieval.embedded import EmbeddedGallery
from san_tf.retrieval.entries import Entry, Hit
from san_tf.retrieval.filter_flags import (
    add_filter_flags,
    as_json,
    entry_table,
    filter_of,
    print_table,
    unknown_values,
    whole_number,
)
from san_tf.retrieval.gallery import Gallery, GalleryInfo, gallery_pictures, rerank
from san_tf.retrieval.image_files import MAX_BYTES
from san_tf.retrieval.name_reader import MARKET, NameReader
from san_tf.retrieval.opening import open_to_search
from san_tf.start import import_tensorflow
from san_tf.trusted import remember_export

if TYPE_CHECKING:
    from san_tf.evaluation.calibration import Calibration


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf search", description=__doc__)
    parser.add_argument("--gallery", metavar="DB", required=True, help="a gallery of `san-tf gallery add`")
    parser.add_argument("--query", nargs="+", metavar="FILE", required=True, help="photographs of people")
    parser.add_argument(
        "--model",
        metavar="EXPORT",
        help="the gallery's encoder, if it has moved or is new here; it is a program, so you must trust it",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="the folder of the gallery's photographs, for --figure, if it has moved or is new here",
    )
    parser.add_argument(
        "--top", type=whole_number(1, 2**31), metavar="N", default=20, help="entries per query"
    )
    parser.add_argument(
        "--rerank",
        type=whole_number(0, 2**31),
        metavar="N",
        default=0,
        help="re-rank the first N entries by their neighbours, for example 100",
    )
    add_filter_flags(parser)
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a file of `san-tf calibrate`, which turns scores into probabilities; default: the export's",
    )
    parser.add_argument(
        "--prior",
        type=float,
        metavar="X",
        help="probability that an entry shows the person, before looking; default: one over the entries",
    )
    parser.add_argument("--figure", metavar="FILE", help="draw the ranked lists, .png or .pdf")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options: argparse.Namespace = parser.parse_args(argv)
    if options.rerank and options.rerank < options.top:
        raise UserError(f"--rerank is {options.rerank}; give at least --top, {options.top}.")
    if options.figure and Path(options.figure).suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UserError(f"{options.figure} is not the name of a figure; let it end in .png, .pdf or .svg.")
    return options


def _run(options: argparse.Namespace) -> None:
    # Its kernels take a second to import, which `--help` need not wait for.
    from san_tf.evaluation.calibration import Calibration, check_prior

    # Report mistakes before TensorFlow starts, which takes seconds.
    filter_of(options)
    contents = [query_content(path) for path in options.query]
    calibration = Calibration.load(options.calibration) if options.calibration else None
    if options.prior is not None:
        check_prior(options.prior)
    gallery, model, withheld = open_to_search(options.gallery, options.model, options.images)
    with gallery:
        where = filter_of(options, gallery.info)
        for value in unknown_values(gallery, where):
            print(printable(f"Note: {options.gallery} has no {value}."), file=sys.stderr)
        if options.figure and withheld:
            raise UserError(withheld)
        queries = embedded_queries(options.query, contents, model, gallery)
        found = gallery.search(queries, max(options.top, options.rerank), where)
        if options.rerank:
            found = [rerank(gallery, *pair) for pair in zip(queries, found, strict=True)]
        found = [hits[: options.top] for hits in found]
        calibration = calibration or _of_export(model)
        prior = options.prior or usual_prior(len(gallery))
        verdicts = [_verdict(*pair, calibration, prior) for pair in zip(contents, found, strict=True)]
        _tell(options, found, gallery.info, verdicts)
        if isinstance(gallery, EmbeddedGallery) and gallery.unlogged:
            print(printable(f"Note: {gallery.unlogged}"), file=sys.stderr)
        if options.figure:
            _draw(options, contents, found, gallery)


def query_content(path: str) -> bytes:
    """Return the bytes of a query.

    Raises:
        UserError: it cannot be read, or is not a file.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except OSError as error:
        raise UserError(f"The query {path} cannot be read ({error.strerror}); name an image file.") from error
    except ValueError as error:
        raise UserError(f"The query {path} {error}; name an image file.") from error


def embedded_queries(paths: Sequence[str], contents: list[bytes], model: str, gallery: Gallery) -> np.ndarray:
    """Return the queries' embeddings, `(Q, D)`; `contents` is replaced by upright images.

    Args:
        paths: names of the queries, for messages.
        contents: their bytes.
        model: export that the user trusts.
        gallery: the gallery, whose encoder it must be.

    Raises:
        UserError: a query cannot be used, or the encoder is another one.
    """
    import_tensorflow()
    from san_tf.embedding.exported_encoder import ExportedEncoder
    from san_tf.embedding.sources import PhotographError, upright

    for number, path in enumerate(paths):
        try:
            contents[number] = upright(contents[number])
        except PhotographError as error:
            raise UserError(f"The query {path} {error}; give another photograph.") from error
    encoder = ExportedEncoder(model)
    own = GalleryInfo(encoder.size, str(encoder.folder), encoder.fingerprint)
    gallery.info.check_encoder(gallery.name, own)
    remember_export(encoder.folder, encoder.fingerprint)
    embeddings = encoder.embed_each(contents)
    for path, embedding in zip(paths, embeddings, strict=True):
        if embedding is None:
            raise UserError(f"The query {path} is damaged: it cannot be decoded; give another photograph.")
    return np.stack([embedding for embedding in embeddings if embedding is not None])


class Verdict(NamedTuple):
    """What the hits of a query are worth.

    Attributes:
        quality: of the query.
        probabilities: that each hit shows the query's person; None without a calibration.
    """

    quality: CropQuality
    probabilities: np.ndarray | None

    @property
    def nobody(self) -> bool | None:
        """Whether probably no hit shows the person, or the query shows nobody; None if unknown."""
        if self.quality.problem:
            return True
        if self.probabilities is None:
            return None
        return bool(self.probabilities.max(initial=0.0) < 0.5)


def usual_prior(entries: int) -> float:
    """Probability that an entry shows the person, before looking: one in a gallery of so many entries."""
    return min(1.0 / max(entries, 2), 0.5)


def _of_export(model: str) -> Calibration | None:
    from san_tf.serving.encoder_export import read_calibration
    from san_tf.serving.servable import newest_export

    found = read_calibration(newest_export(model))
    # Scores of a gallery are cosines, which tell no other distances.
    return found if found is None or found.metric == "cosine" or found.normalized else None


def _verdict(content: bytes, hits: Sequence[Hit], calibration: Calibration | None, prior: float) -> Verdict:
    try:
        quality = crop_quality(_picture(content))
    except ValueError:
        quality = CropQuality(0.0, "cannot be decoded")
    if calibration is None:
        return Verdict(quality, None)
    return Verdict(quality, calibration.of_scores(np.array([hit.score for hit in hits]), prior))


def _tell(
    options: argparse.Namespace,
    found: Sequence[Sequence[Hit]],
    info: GalleryInfo,
    verdicts: Sequence[Verdict],
) -> None:
    if options.json:
        answers = [_answer(info, *one) for one in zip(options.query, found, verdicts, strict=True)]
        print(json.dumps(answers, indent=2))
        return
    console = Terminal()
    for path, hits, verdict in zip(options.query, found, verdicts, strict=True):
        reranked = f", the first {options.rerank} re-ranked" if options.rerank else ""
        told = _in_words(verdict) if hits else ""
        console.print(f"{path}: {len(hits)} found{reranked}{told}", markup=False, soft_wrap=True)
        if hits:
            scores = [hit.score for hit in hits]
            print_table(console, entry_table(info, [hit.entry for hit in hits], scores))


def _in_words(verdict: Verdict) -> str:
    if verdict.quality.problem:
        return f"; nobody here: the query {verdict.quality.problem}, so its hits mean nothing"
    if verdict.probabilities is None:
        return ""
    best = f"{100 * verdict.probabilities.max():.2g} %"
    if verdict.nobody:
        return f"; nobody here: the best hit shows the person with a probability of {best}"
    return f"; the best hit shows the person with a probability of {best}"


def _answer(info: GalleryInfo, path: str, hits: Sequence[Hit], verdict: Verdict) -> dict[str, Any]:
    chances = verdict.probabilities
    ranked = [
        {
            "rank": rank,
            "score": round(hit.score, 6),
            **({} if chances is None else {"probability": float(f"{chances[rank - 1]:.6g}")}),
            **as_json(info, hit.entry),
        }
        for rank, hit in enumerate(hits, 1)
    ]
    quality = {"score": round(verdict.quality.score, 3), "problem": verdict.quality.problem}
    return {"query": path, "quality": quality, "nobody_here": verdict.nobody, "hits": ranked}


def _draw(
    options: argparse.Namespace, contents: Sequence[bytes], found: Sequence[Sequence[Hit]], gallery: Gallery
) -> None:
    from san_tf.visualization.ranked_list_sheet import ranked_lists
    from san_tf.visualization.style import save_figure

    ranks = min(len(hits) for hits in found)
    if ranks == 0:
        raise UserError("Nothing was found for a query, so there is no list to draw; widen the filter.")
    reader = NameReader(MARKET)
    queries = [reader.entry(Path(path).name, "", {}) for path in options.query]
    known = all(query.pid is not None for query in queries) and all(
        hit.entry.pid is not None for hits in found for hit in hits[:ranks]
    )
    correct = [
        [hit.entry.pid == query.pid for hit in hits[:ranks]]
        for query, hits in zip(queries, found, strict=True)
    ]
    figure = ranked_lists(
        [_picture(content) for content in contents],
        [[_image_of(hit.entry, gallery) for hit in hits[:ranks]] for hits in found],
        np.array(correct) if known else None,
        query_captions=[_caption(gallery.info, query) for query in queries],
        gallery_captions=[
            [f"{hit.score:.2f}  {_caption(gallery.info, hit.entry)}".strip() for hit in hits[:ranks]]
            for hits in found
        ],
    )
    save_figure(figure, options.figure)
    if not options.json:
        Terminal().print(f"{options.figure}: ranked lists", markup=False, soft_wrap=True)


def _caption(info: GalleryInfo, entry: Entry) -> str:
    name = info.camera_name(entry.camera)
    return f"cam {name}" if name.isdecimal() else name


def _image_of(entry: Entry, gallery: Gallery) -> np.ndarray:
    """Return the photograph of an entry, or a grey image where it is missing."""
    from san_tf.embedding.sources import PhotographError, upright

    grey = np.full((128, 64, 3), 225, np.uint8)
    if not entry.image:
        return grey
    try:
        return _picture(upright(gallery_pictures(gallery.info).read(entry.image)))
    except (PhotographError, ValueError):
        return grey


def _picture(content: bytes) -> np.ndarray:
    import tensorflow as tf

    from san_tf.data.images import decode_image

    try:
        picture: np.ndarray = decode_image(tf.constant(content)).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError("it cannot be decoded") from error
    return picture
