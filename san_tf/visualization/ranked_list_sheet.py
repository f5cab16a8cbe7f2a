"""Ranked lists: each query with its gallery images, correct ones green, wrong ones red."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from san_tf.errors import UserError
from san_tf.visualization import style

_CELL, _TALL, _GAP, _LINE = 0.62, 1.24, 0.1, 0.17


def ranked_lists(
    query_images: Sequence[np.ndarray],
    gallery_images: Sequence[Sequence[np.ndarray]],
    gallery_correct: np.ndarray | None,
    query_captions: Sequence[str] | None = None,
    gallery_captions: Sequence[Sequence[str]] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw ranked lists, one row per query, best match first.

    Args:
        query_images: Q images (H, W, 3) uint8 RGB, of any sizes.
        gallery_images: Q lists of R images each, best first.
        gallery_correct: (Q, R) bool, whether an image shows the query's person; None if unknown.
        query_captions: Q short texts, e.g. "pid 17  cam 2".
        gallery_captions: Q lists of R short texts.
        title: Above the figure.

    Returns:
        The figure: Q * (R + 1) axes, row by row, the query first.

    Raises:
        UserError: If counts or shapes do not fit together.

    Example:
        >>> crop = np.zeros((128, 64, 3), np.uint8)
        >>> figure = ranked_lists([crop], [[crop] * 10], np.eye(1, 10, dtype=bool))
        >>> len(figure.axes)
        11
    """
    queries = style.as_pictures(query_images, "query_images")
    known = gallery_correct is not None
    # If nothing is known, the first list gives the number of ranks.
    unknown = np.zeros((len(gallery_images), len(gallery_images[0]) if len(gallery_images) else 0), bool)
    correct = np.asarray(gallery_correct if known else unknown)
    if correct.ndim != 2 or correct.dtype != bool or correct.shape[1] == 0:
        raise UserError(
            f"gallery_correct must be (queries, ranks) bool. Received: {correct.dtype} {correct.shape}."
        )
    for name, values in (
        ("gallery_images", gallery_images),
        ("gallery_correct", correct),
        ("query_captions", query_captions),
        ("gallery_captions", gallery_captions),
    ):
        style.check_count(values, len(queries), name, "the queries")
    ranks = correct.shape[1]
    gallery = [style.as_pictures(row, f"gallery_images[{q}]") for q, row in enumerate(gallery_images)]
    for q, row in enumerate(gallery):
        style.check_count(row, ranks, f"gallery_images[{q}]", "the columns of gallery_correct")
        if gallery_captions is not None:
            style.check_count(gallery_captions[q], ranks, f"gallery_captions[{q}]", "its images")

    caption = _LINE if query_captions is not None or gallery_captions is not None else 0.0
    pitch, head = _TALL + caption + 0.12, style.title_height(title)
    first = 0.15 + _CELL + 0.34  # the gallery starts behind a wider gap and a rule
    width = first + ranks * (_CELL + _GAP) + 0.1
    height = head + 0.24 + len(queries) * pitch + 0.28
    figure = style.new_figure(width, height, title)
    top = head + 0.24
    style.write(figure, "query", 0.15 + _CELL / 2, top - 0.12, style.SMALL, style.MUTED, "center")
    for r in range(ranks):
        at = first + r * (_CELL + _GAP) + _CELL / 2
        style.write(figure, str(r + 1), at, top - 0.12, style.SMALL, style.MUTED, "center")
    for q, query in enumerate(queries):
        style.show_picture(figure, query, 0.15, top, _CELL, _TALL, style.INK)
        if query_captions is not None:
            _caption(figure, query_captions[q], 0.15, top)
        for r, picture in enumerate(gallery[q]):
            left = first + r * (_CELL + _GAP)
            frame = style.RULE if not known else style.RIGHT if correct[q, r] else style.WRONG
            style.show_picture(figure, picture, left, top, _CELL, _TALL, frame)
            if gallery_captions is not None:
                _caption(figure, gallery_captions[q][r], left, top)
        top += pitch
    if not known:
        return figure
    bottom = height - 0.16
    style.write(figure, "■", first, bottom, style.SMALL, style.RIGHT)
    style.write(figure, "same person", first + 0.13, bottom, style.SMALL, style.MUTED)
    style.write(figure, "■", first + 1.0, bottom, style.SMALL, style.WRONG)
    style.write(figure, "another person", first + 1.13, bottom, style.SMALL, style.MUTED)
    return figure


def _caption(figure: Figure, text: str, left: float, top: float) -> None:
    style.caption(figure, text, left + _CELL / 2, top + _TALL + 0.1, _CELL + _GAP, 6.0)
