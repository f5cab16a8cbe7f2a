"""A two-dimensional map of embeddings, made with t-SNE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from san_tf.errors import UserError
from san_tf.visualization import style

_MARKERS = "osD^vPX*<>ph"
_MAP, _UNITS = 6.8, 1 / 1.12  # side of the map in inches; share of it that one unit of the axes takes


def embedding_coordinates(embeddings: np.ndarray, seed: int = 0) -> np.ndarray:
    """Reduce embeddings to two dimensions with PCA and t-SNE.

    PCA reduces to at most 50 dimensions, then t-SNE (van der Maaten and Hinton, 2008) to two.

    Args:
        embeddings: (N, D) float, at least 4 rows.
        seed: Seed of t-SNE; the same seed gives the same map.

    Returns:
        (N, 2) float64, scaled to 0..1.

    Raises:
        UserError: If there are too few embeddings, or they are not finite or not a matrix.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    values = np.asarray(embeddings, np.float64)
    if values.ndim != 2 or len(values) < 4 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise UserError(
            f"embeddings must be finite and (at least 4, at least 2). Received: shape={values.shape}."
        )
    reduced = PCA(min(50, *values.shape), svd_solver="full").fit_transform(values)
    perplexity = min(30.0, max(2.0, (len(values) - 1) / 3))
    # one thread: sums keep their order, and no threads wait for each other on a busy machine
    with threadpool_limits(1):
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)
    low, high = places.min(0), places.max(0)
    return (places - low) / np.maximum(high - low, 1e-12)


def embedding_map(
    embeddings: np.ndarray,
    pids: np.ndarray,
    camids: np.ndarray | None = None,
    images: Sequence[np.ndarray] | np.ndarray | None = None,
    seed: int = 0,
    title: str | None = None,
) -> Figure:
    """Draw embeddings in two dimensions, as dots or as thumbnails of the crops.

    Colours are identities; markers are cameras.

    Args:
        embeddings: (N, D) float.
        pids: (N,) int identities.
        camids: (N,) int camera ids, or None.
        images: N crops (H, W, 3) uint8 RGB to draw as thumbnails instead of dots, or None.
        seed: Seed of t-SNE.
        title: Above the figure.

    Returns:
        The figure with one axes.

    Raises:
        UserError: If counts or shapes do not fit.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> figure = embedding_map(rng.normal(size=(12, 8)), np.repeat([1, 2, 3], 4))
        >>> len(figure.axes)
        1
    """
    count = len(embeddings)
    for name, values in (("pids", pids), ("camids", camids), ("images", images)):
        style.check_count(values, count, name, "the embeddings")
    places = embedding_coordinates(embeddings, seed)
    people, person = np.unique(np.asarray(pids), return_inverse=True)
    color = style.hues(len(people))[person]
    head = style.title_height(title) + 0.22
    figure = style.new_figure(7.2, head + 6.9 + 0.3, title)
    note = f"{count} crops, {len(people)} people"
    axes = style.place(figure, 0.2, head, _MAP, _MAP)
    axes.set_xlim(-0.06, 1.06)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(style.RULE)
    if images is not None:
        pictures = style.as_pictures(images, "images")
        tall = _thumbnail_height(count)
        sizes = np.array([(tall * p.shape[1] / p.shape[0], tall) for p in pictures])
        for picture, color_, place in zip(pictures, color, _apart(places, sizes + 0.012), strict=True):
            thumbnail = OffsetImage(
                picture, zoom=tall * _MAP * _UNITS * 72 / picture.shape[0], interpolation="antialiased"
            )
            frame = {"edgecolor": color_, "linewidth": 1.5, "boxstyle": "square,pad=0.02"}
            axes.add_artist(AnnotationBbox(thumbnail, tuple(place), pad=0.02, bboxprops=frame))
        note += "; a frame's colour is the person"
    else:
        cameras = np.zeros(count, int) if camids is None else np.asarray(camids)
        kinds = np.unique(cameras)
        for k, camera in enumerate(kinds):
            here = cameras == camera
            axes.scatter(
                places[here, 0],
                places[here, 1],
                s=34,
                c=color[here],
                marker=_MARKERS[k % len(_MARKERS)],
                edgecolors=style.PAPER,
                linewidths=0.6,
            )
        note += "; a colour is a person"
        if camids is not None:
            note += ", a marker a camera"
            shapes = [
                Line2D(
                    [], [], linestyle="", marker=_MARKERS[k % len(_MARKERS)], color=style.MUTED, markersize=5
                )
                for k in range(len(kinds))
            ]
            axes.legend(
                shapes,
                [f"camera {c}" for c in kinds],
                loc="upper center",
                bbox_to_anchor=(0.5, -0.005),
                ncols=min(6, len(kinds)),
                fontsize=style.SMALL,
                labelcolor=style.MUTED,
                frameon=False,
                handletextpad=0.1,
                columnspacing=1.0,
            )
    style.write(figure, note, 0.2, head - 0.12, style.SMALL, style.MUTED)
    return figure


def _thumbnail_height(count: int) -> float:
    """Height of a thumbnail in the map's units; all thumbnails cover about a third of the map."""
    return float(min(0.13, np.sqrt(0.34 * 2 / max(count, 1))))


def _apart(places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Push overlapping boxes apart, each pair along the axis of its smaller relative overlap.

    `places` and `sizes` are (N, 2) in the map's units.
    """
    moved = places.astype(float).copy()
    first, second = np.triu_indices(len(moved), 1)
    need = (sizes[first] + sizes[second]) / 2
    for _ in range(500):
        gap = moved[second] - moved[first]
        overlap = need - np.abs(gap)
        hit = np.flatnonzero((overlap > 1e-4).all(1))
        if hit.size == 0:
            break
        axis = (overlap[hit] / need[hit]).argmin(1)
        side = np.where(gap[hit, axis] < 0, -1.0, 1.0)
        push = 0.25 * overlap[hit, axis] * side
        np.add.at(moved, (second[hit], axis), push)
        np.add.at(moved, (first[hit], axis), -push)
        moved = np.clip(moved, sizes / 2 - 0.05, 1.05 - sizes / 2)
    return moved
