"""tf.data pipelines from records to training batches, and to images for inference.

A training pipeline follows a plan. NumPy plans the image and the augmentation of each position, one epoch at
a time. TensorFlow gathers the encoded bytes and decodes them in parallel. Compiled loops then augment a whole
batch in one pass over its pixels, outside the GIL. The stages are: plan, decode row by row, batch, vary,
prefetch.
"""

from __future__ import annotations

import atexit
import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from san_tf.data import transforms
from san_tf.data.augmentation import Augmentation, AugmentationPlan, composed, draw_epoch, plan_augmentation
from san_tf.data.headers import read_header
from san_tf.data.images import decode_image, normalize_images, orientations, resize_image, untuned
from san_tf.data.records import CAST, Records
from san_tf.data.sampling import pk_batches, pk_steps, shuffled_stream
from san_tf.data.textures import stored_textures
from san_tf.errors import UserError


class Shard(NamedTuple):
    """The replicas of one process, among all replicas that share every batch.

    Args:
        first: number of this process's first replica.
        here: number of replicas of this process.
        replicas: number of replicas that share a batch, over all processes.

    Example:
        >>> Shard(1, 1, 2).rows([4, 2]).tolist()  # 4 rows of images and 2 of pairs; the second of 2 replicas
        [[2, 3, 5]]
    """

    first: int
    here: int
    replicas: int

    def rows(self, sizes: list[int]) -> np.ndarray:
        """Return the places of each replica's rows in the whole batch.

        Every part of the batch is cut into equal blocks. A replica gets whole identities if the rows of an
        identity are consecutive and the number of replicas divides P.

        Args:
            sizes: rows of each part of the batch, for example P x K images, then M pairs.

        Returns:
            `(here, rows)` int32, ascending in each row.

        Raises:
            UserError: the replicas do not divide a part.
        """
        first = 0
        places = []
        for size in sizes:
            if size % self.replicas:
                raise UserError(
                    f"A batch with {size} rows of a kind cannot be shared equally by {self.replicas} "
                    f"replicas; choose a multiple of {self.replicas}."
                )
            blocks = np.arange(first, first + size, dtype=np.int32).reshape(self.replicas, -1)
            places.append(blocks[self.first : self.first + self.here])
            first += size
        return np.concatenate(places, axis=1)


# The 929 textures of the paper's PIT data, and their mirror images, fit in.
_CACHE_BYTES = 384 * 2**20


class TextureLoader:
    """Makes batches of target textures in two steps: decode row by row, then finish the batch.

    Args:
        files: `(U,)` encoded textures.
        size: T, height and width of the result.
        mirror_map: `(T, T, 2)` as in `pipeline.train_dataset`; None takes that of this package's body.
        cache_bytes: all textures and their mirror images are decoded once and kept in memory, if they take
            fewer bytes. More textures are decoded once into a file and mapped, see
            `textures.stored_textures`; without such a file they are decoded for each image.

    Raises:
        UserError: the mirror map has the wrong size.
    """

    def __init__(
        self,
        files: np.ndarray,
        size: int,
        mirror_map: np.ndarray | None = None,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if mirror_map is None:
            from san_tf.synthesis import texels

            mirror_map = texels.mirror_map(size)
        if mirror_map.shape != (size, size, 2):
            raise UserError(
                f"The mirror map has shape {mirror_map.shape}; textures of {size} need ({size}, {size}, 2)."
            )
        self._mirror_map = mirror_map
        self._size = size
        self._contents = tf.constant(list(files), tf.string)
        self._as_stored = all(read_header(texture)[1:3] == (size, size) for texture in files)
        self._decoded: np.ndarray | None = None
        self._mirrored = bool(len(files)) and 2 * len(files) * size * size * 3 <= cache_bytes
        if self._mirrored:
            straight = np.stack(list(self._all_decoded(len(files))))
            mirrored = straight[:, mirror_map[..., 0], mirror_map[..., 1]]
            # All textures, then all mirrored ones: copying rows is faster than gathering texels.
            self._decoded = np.concatenate([straight, mirrored])
        else:
            self._decoded = stored_textures(
                files,
                size,
                lambda index: self._decode(tf.constant(index, tf.int64)).numpy(),
                lambda: self._all_decoded(len(files)),
            )

    def decode(self, index: tf.Tensor) -> tf.Tensor:
        """Do the first step, for one row: decode its texture.

        Args:
            index: scalar int64 index of the texture; -1 for none.

        Returns:
            `(T, T, 3)` uint8; `(0,)` if all textures are kept decoded, in memory or in a file.
        """
        if self._decoded is not None:
            return tf.zeros((0,), tf.uint8)
        missing = tf.zeros((self._size, self._size, 3), tf.uint8)
        return tf.cond(index < 0, lambda: missing, lambda: self._decode(index))

    def finish(self, rows: np.ndarray, indices: np.ndarray, *plan: np.ndarray) -> np.ndarray:
        """Do the second step, for a batch: mirror, dye and scale its textures.

        Args:
            rows: `(N, ...)` uint8, the results of `decode`.
            indices: `(N,)` int64, the arguments of `decode`.
            *plan: the columns of the `AugmentationPlan` of the N images.

        Returns:
            `(N, T, T, 3)` float32 in [-1, 1]; mid-grey for a missing texture.
        """
        varied = AugmentationPlan(*plan)
        if self._decoded is None:
            places = np.where(indices < 0, -1, np.arange(len(indices)))
            return transforms.vary_textures(rows, places, varied, self._mirror_map)
        if not self._mirrored:
            return transforms.vary_textures(self._decoded, indices, varied, self._mirror_map)
        places = np.where(indices < 0, -1, indices + varied.flip * (len(self._decoded) // 2))
        unflipped = varied._replace(flip=np.zeros_like(varied.flip))
        return transforms.vary_textures(self._decoded, places, unflipped, self._mirror_map)

    def _all_decoded(self, number: int) -> Iterator[np.ndarray]:
        indices = tf.data.Dataset.range(number)
        textures = untuned(indices.map(self._decode, num_parallel_calls=tf.data.AUTOTUNE))
        return iter(textures.as_numpy_iterator())

    def _decode(self, index: tf.Tensor) -> tf.Tensor:
        texture = decode_image(tf.gather(self._contents, index))
        if not self._as_stored:
            texture = transforms.resize_texture(texture, self._size)
        return tf.ensure_shape(texture, (self._size, self._size, 3))


_PLAN_TYPES = AugmentationPlan(
    tf.bool, tf.int32, tf.int32, tf.int32, tf.float32, tf.float32, tf.float32, tf.int32, tf.float32,
    tf.int32, tf.float32, tf.float32, tf.float32, tf.float32, tf.int32,
)  # fmt: skip
_PLAN_SHAPES = AugmentationPlan(
    (), (2,), (2,), (4,), (3, 4), (), (), (2,), (3, 4), (2,), (2,), (), (), (), ()
)  # fmt: skip


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


# This package's data sets, which call Python, and TensorFlow's types that hide their inputs.
_OURS: weakref.WeakSet[tf.data.Dataset] = weakref.WeakSet()
_OPAQUE = ("_PerDeviceGenerator", "_ReincarnatedPerDeviceGenerator", "_VariantDataset", "_RemoteDataset")


@functools.cache
def close_at_exit() -> None:
    """Prevent a process with open data set iterators from hanging at exit.

    An iterator may live to the end of the program, for example because a traceback holds it. Python then
    destroys it during shutdown. TensorFlow waits for its own thread, and that thread waits for Python
    forever (TensorFlow 2.15 and 2.21). Destroying the iterator just before shutdown avoids this.
    """
    atexit.register(_close)


def _close() -> None:
    for thing in gc.get_objects():
        kind = type(thing)
        iterates = str(kind.__module__).startswith("tensorflow.python.data.ops.")
        if iterates and kind.__name__.endswith("Iterator") and not _is_of_others(thing):
            # TensorFlow has no function for this: dropping the last reference destroys the iterator.
            vars(thing).clear()


def _is_of_others(iterator: Any) -> bool:
    """Whether an iterator certainly uses none of this package's data sets."""
    behind = [getattr(iterator, "_dataset", None)]
    while behind:
        dataset = behind.pop()
        if dataset is None or dataset in _OURS or type(dataset).__name__ in _OPAQUE:
            return False
        behind += getattr(dataset, "_inputs", lambda: [None])()
    return True


def train_dataset(
    records: Records,
    identities_per_batch: int,
    images_per_identity: int,
    image_size: tuple[int, int],
    texture_size: int | None = None,
    mirror_map: np.ndarray | None = None,
    augmentation: Augmentation | None = None,
    pit: Records | None = None,
    pit_per_batch: int = 0,
    pit_augmentation: Augmentation | None = None,
    seed: int = 0,
    start_step: int = 0,
    epochs: int | None = None,
    parallel_calls: int = tf.data.AUTOTUNE,
    shard: Shard | None = None,
) -> tf.data.Dataset:
    """Make batches of P identities x K images, followed by image-texture pairs.

    The batch of step i depends only on the records, the arguments and the seed. So a run that resumes with
    `start_step=i` gets the batches that the first run would have had. An epoch has
    `sampling.pk_steps(records.pids, P, K)` steps.

    Args:
        records: training images; distractors and junk are left out.
        identities_per_batch: P.
        images_per_identity: K; an identity with fewer images repeats some.
        image_size: height and width in pixels.
        texture_size: T; None leaves textures out of the batches.
        mirror_map: `(T, T, 2)` int (row, column) such that `texture[map[..., 0], map[..., 1]]` swaps left
            and right of the person; by default that of this package's body, `synthesis.texels.mirror_map(T)`.
        augmentation: augmentation of the re-ID images; the paper's by default.
        pit: image-texture pairs to add to every batch with label -1.
        pit_per_batch: M, number of pairs per batch.
        pit_augmentation: augmentation of the pairs; by default `augmentation` without erasing, grayscale,
            mixed amplitudes and AutoAugment, which take away what is to be painted.
        seed: seed of the run.
        start_step: first step to yield, from 0.
        epochs: last epoch; None repeats without end.
        parallel_calls: threads for decoding; the result does not depend on it.
        shard: the replicas to read for. The data set then yields one element per replica, in order, instead
            of a whole batch. Each has `row` (rows,) int32, the places of its rows in the whole batch. A
            replica gets whole identities if the number of replicas divides P.

    Returns:
        Dataset of dicts: `image` (B, H, W, 3) float32 normalised; `label` (B,) int32 in [0, C), -1 for pairs;
        `record` (B,) int64, index into the records followed by the pairs; and with `texture_size`: `texture`
        (B, T, T, 3) float32 in [-1, 1] (grey if missing) and `texture_weight` (B,) float32, 1 for a texture
        and 0 for none. B = P * K + M. The re-ID images come first, K consecutive per identity.

    Raises:
        UserError: there are too few identities, `pit_per_batch` is set without pairs, `texture_size` is set
            but no image has a texture, the mirror map has the wrong size, or the number of replicas does not
            divide a batch.

    Example:
        >>> dataset = train_dataset(records, 16, 4, (256, 128), texture_size=256, seed=1)
    """
    augmentation = augmentation or Augmentation()
    steps = pk_steps(records.pids, identities_per_batch, images_per_identity)

    def reid_order(epoch: int) -> np.ndarray:
        return pk_batches(records.pids, identities_per_batch, images_per_identity, seed, epoch)

    parts = [Part(records, records.labels, augmentation, reid_order)]
    if pit_per_batch:
        if pit is None or not len(pit):
            raise UserError(f"pit_per_batch is {pit_per_batch}, but no image-texture pairs were given.")
        pairs = pit_augmentation or replace(
            augmentation, erasing=0.0, grayscale=0.0, auto_augment=0.0, amplitude_mix=0.0
        )
        parts.append(pair_part(pit, pit_per_batch, steps, pairs, seed))
    return planned_dataset(
        parts, steps, image_size, texture_size, mirror_map, seed, start_step, epochs, parallel_calls, shard
    )


def pit_dataset(
    pit: Records,
    batch_size: int,
    image_size: tuple[int, int],
    texture_size: int,
    mirror_map: np.ndarray | None = None,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    start_step: int = 0,
    epochs: int | None = None,
    parallel_calls: int = tf.data.AUTOTUNE,
    shard: Shard | None = None,
) -> tf.data.Dataset:
    """Make batches of image-texture pairs only, to train the texture generator SAN-PG.

    Batches are those of `train_dataset`, with label -1 throughout. An epoch has
    `max(1, len(pit) // batch_size)` steps. Shuffled passes over the pairs may cross the ends of epochs.

    Args:
        pit: image-texture pairs.
        batch_size: pairs per batch.
        image_size: height and width in pixels.
        texture_size: T.
        mirror_map: see `train_dataset`.
        augmentation: augmentation of the pairs; `Augmentation.for_transfer()` by default.
        seed: seed of the run.
        start_step: first step to yield, from 0.
        epochs: last epoch; None repeats without end.
        parallel_calls: threads for decoding.
        shard: see `train_dataset`.

    Raises:
        UserError: `pit` is empty, or its records lack textures.
    """
    if not len(pit):
        raise UserError("There are no image-texture pairs to train the texture generator on.")
    steps = max(1, len(pit) // batch_size)
    parts = [pair_part(pit, batch_size, steps, augmentation or Augmentation.for_transfer(), seed)]
    return planned_dataset(
        parts, steps, image_size, texture_size, mirror_map, seed, start_step, epochs, parallel_calls, shard
    )


def inference_dataset(
    records: Records, image_size: tuple[int, int], batch_size: int = 64, normalized: bool = True
) -> tf.data.Dataset:
    """Make batches of resized images in the order of the records, for embedding or painting.

    Args:
        records: the images.
        image_size: height and width in pixels.
        batch_size: images per batch; the last batch may be smaller.
        normalized: False yields uint8 images of 0-255 instead, for colour histograms and figures.

    Returns:
        Dataset of `(N, H, W, 3)` float32 normalised images, or uint8 ones.
    """
    contents, orientation_of = tf.constant(list(records.images), tf.string), orientations(records.images)

    def load(index: tf.Tensor) -> tf.Tensor:
        image = resize_image(decode_image(contents[index], orientation_of(index)), image_size)
        image = tf.ensure_shape(image, (*image_size, 3))
        return image if normalized else tf.cast(tf.round(image), tf.uint8)

    dataset = tf.data.Dataset.range(len(records)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size)
    if normalized:
        dataset = dataset.map(normalize_images, num_parallel_calls=2)
    return untuned(dataset.prefetch(2))


def planned_dataset(
    parts: list[Part],
    steps: int,
    image_size: tuple[int, int],
    texture_size: int | None,
    mirror_map: np.ndarray | None,
    seed: int,
    start_step: int,
    epochs: int | None,
    parallel_calls: int,
    shard: Shard | None,
) -> tf.data.Dataset:
    """Make batches that have the rows of some parts one after the other; other arguments as `train_dataset`.

    Args:
        parts: the parts of every batch.
        steps: batches per epoch.
        image_size: height and width in pixels.
        texture_size: T; None leaves textures out of the batches.
        mirror_map: see `train_dataset`.
        seed: seed of the run.
        start_step: first step to yield, from 0.
        epochs: last epoch; None repeats without end.
        parallel_calls: threads for decoding.
        shard: see `train_dataset`.
    """
    close_at_exit()
    image_size = (int(image_size[0]), int(image_size[1]))
    images = [image for part in parts for image in part.records.images]
    contents, orientation_of = tf.constant(images, tf.string), orientations(images)
    textures = None
    if texture_size:
        files = np.concatenate([part.records.texture_files for part in parts])
        if not len(files):
            raise UserError(
                "No image has a texture to learn from; attach a folder of pseudo textures, or "
                "give image-texture pairs."
            )
        textures = TextureLoader(files, texture_size, mirror_map)
    augmentations = [part.augmentation for part in parts]
    reduce = any(a.low_resolution > 0 for a in augmentations)
    noisy = any(a.noise > 0 and a.noise_level > 0 for a in augmentations)
    noise_tile = transforms.make_noise_tile(seed, image_size) if noisy else None

    def load(index: tf.Tensor, label: tf.Tensor, texture: tf.Tensor, *row: tf.Tensor) -> dict[str, Any]:
        plan = AugmentationPlan(*row)
        image = decode_image(tf.gather(contents, index), orientation_of(index))
        if reduce:
            image = transforms.reduce_resolution(image, plan.scale)
        loaded = {"pixels": tf.reshape(image, [-1]), "size": tf.shape(image)[:2], "plan": row}
        loaded |= {"label": label, "record": index}
        if textures is not None:
            loaded |= {"texture": texture, "texels": textures.decode(texture)}
        return loaded

    def vary(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        def vary_images(pixels: np.ndarray, sizes: np.ndarray, *plan: np.ndarray) -> np.ndarray:
            return transforms.vary_images(pixels, sizes, AugmentationPlan(*plan), image_size, noise_tile)

        arguments = [batch["pixels"], batch["size"], *batch["plan"]]
        image = tf.numpy_function(vary_images, arguments, tf.float32, stateful=False)
        varied = {"image": tf.ensure_shape(image, (rows, *image_size, 3))}
        varied |= {"label": batch["label"], "record": batch["record"]}
        if textures is not None:
            arguments = [batch["texels"], batch["texture"], *batch["plan"]]
            texture = tf.numpy_function(textures.finish, arguments, tf.float32, stateful=False)
            varied["texture"] = tf.ensure_shape(texture, (rows, texture_size, texture_size, 3))
            varied["texture_weight"] = tf.cast(batch["texture"] >= 0, tf.float32)
        return varied

    sizes = [part.order(0).shape[1] for part in parts]
    places = None if shard is None else shard.rows(sizes)
    rows = sum(sizes) if places is None else places.shape[1]
    dataset = plan_rows(parts, steps, image_size, seed, start_step, epochs, places)
    dataset = dataset.map(load, num_parallel_calls=parallel_calls, deterministic=True)
    # Images of different sizes share one array of bytes, each at the beginning of its row.
    dataset = dataset.padded_batch(rows, drop_remainder=True)
    # A batch with textures takes 75 MB: a small fixed number of calls bounds the memory on many cores.
    dataset = dataset.map(vary, num_parallel_calls=2, deterministic=True)
    _OURS.add(dataset)
    if places is not None:
        turns = tf.data.Dataset.from_tensor_slices(places).repeat()
        dataset = tf.data.Dataset.zip((dataset, turns)).map(lambda batch, row: {**batch, "row": row})
    return untuned(dataset.prefetch(2))
