"""Plans of epochs: the record and the augmentation for each position of each batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from san_tf.data.augmentation import Augmentation, AugmentationPlan, composed, draw_epoch, plan_augmentation
from san_tf.data.records import CAST, Records
from san_tf.data.sampling import shuffled_stream

_PLAN_TYPES = AugmentationPlan(
    tf.bool, tf.int32, tf.int32, tf.int32, tf.float32, tf.float32, tf.float32, tf.int32, tf.float32,
    tf.int32, tf.float32,
)  # fmt: skip
_PLAN_SHAPES = AugmentationPlan((), (2,), (2,), (4,), (3, 4), (), (), (2,), (3, 4), (2,), (2,))


@dataclass(frozen=True)
class Part:
    """Some rows of every batch: their records, order and augmentation."""

    records: Records
    labels: np.ndarray
    augmentation: Augmentation
    order: Callable[[int], np.ndarray]  # epoch -> (steps, rows) indices into the records

    def plan(self, order: np.ndarray, draws: np.ndarray, image_size: tuple[int, int]) -> AugmentationPlan:
        """Plan the augmentation of the images at `order` (n,).

        Textures with the colour cast of their image also follow its jitter.

        Args:
            order: `(n,)` indices into the records.
            draws: `(n, draws)` uniform numbers of `draw_epoch`.
            image_size: height and width in pixels.
        """
        plan = plan_augmentation(self.augmentation, draws, image_size)
        cast = self.records.extras.get(CAST)
        if cast is None:
            return plan
        return plan._replace(dye=composed(plan.color, cast[order]).astype(np.float32))


def pair_part(pit: Records, rows: int, steps: int, augmentation: Augmentation, seed: int) -> Part:
    """Return a part of image-texture pairs, from an endless shuffled stream, with label -1.

    Args:
        pit: image-texture pairs.
        rows: number of pairs per batch.
        steps: batches per epoch.
        augmentation: augmentation of the pairs.
        seed: seed of the run.
    """

    def order(epoch: int) -> np.ndarray:
        return shuffled_stream(len(pit), epoch * steps * rows, steps * rows, seed).reshape(steps, rows)

    return Part(pit, np.full(len(pit), -1, np.int32), augmentation, order)


def plan_rows(
    parts: list[Part],
    steps: int,
    image_size: tuple[int, int],
    seed: int,
    start_step: int,
    epochs: int | None,
    places: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Yield planned rows one by one: image index, label, texture index, augmentation.

    Args:
        parts: the parts of every batch.
        steps: batches per epoch.
        image_size: height and width in pixels.
        seed: seed of the run.
        start_step: first step to yield, from 0.
        epochs: last epoch; None repeats without end.
        places: places of the wanted rows in the whole batch, in order; None for all rows.
    """
    image_offsets = np.cumsum([0, *(len(part.records) for part in parts)])
    texture_offsets = np.cumsum([0, *(len(part.records.texture_files) for part in parts)])

    def plan_epoch(epoch: int) -> list[np.ndarray]:
        epoch = int(epoch)
        orders = [part.order(epoch) for part in parts]
        columns: list[list[np.ndarray]] = []
        for number, (part, order) in enumerate(zip(parts, orders, strict=True)):
            shape = order.shape
            draws = draw_epoch(shape, seed, epoch, number)
            texture = part.records.texture_index[order]
            plan = part.plan(order.ravel(), draws.reshape(-1, draws.shape[-1]), image_size)
            columns.append([
                order.astype(np.int64) + image_offsets[number],
                part.labels[order].astype(np.int32),
                np.where(texture < 0, -1, texture + texture_offsets[number]).astype(np.int64),
                *(column.reshape(*shape, *column.shape[1:]) for column in plan),
            ])  # fmt: skip
        first = max(0, start_step - epoch * steps)
        joined = [np.concatenate(column, axis=1)[first:] for column in zip(*columns, strict=True)]
        if places is not None:
            # Every process plans all rows in NumPy, but decodes only its own.
            joined = [column[:, places.ravel()] for column in joined]
        return [column.reshape(-1, *column.shape[2:]) for column in joined]

    types = [tf.int64, tf.int32, tf.int64, *_PLAN_TYPES]
    shapes = [(), (), (), *_PLAN_SHAPES]

    def rows_of(epoch: tf.Tensor) -> tf.data.Dataset:
        # The only per-epoch Python code in the pipeline.
        columns = tf.numpy_function(plan_epoch, [epoch], types, stateful=False)
        for column, shape in zip(columns, shapes, strict=True):
            column.set_shape((None, *shape))
        return tf.data.Dataset.from_tensor_slices(tuple(columns))

    last = np.iinfo(np.int64).max if epochs is None else epochs
    return tf.data.Dataset.range(start_step // steps, last).flat_map(rows_of)
