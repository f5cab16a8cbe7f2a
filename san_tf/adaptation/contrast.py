"""Training on clusters: a memory of their centroids, the contrastive loss, and batches of clusters.

Dai et al., "Cluster Contrast for Unsupervised Person Re-Identification", ACCV 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from san_tf.adaptation.clustering import OUTLIER
from san_tf.evaluation.distances import l2_normalized
from san_tf.keras_compat import apply_gradients, scale_loss


def centroids(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean embedding of each cluster, scaled to length 1.

    Args:
        features: `(N, D)` float; scaled to length 1 before the mean.
        labels: `(N,)` clusters from 0, none of them empty; -1 is an outlier and left out.

    Returns:
        `(C, D)` float32.
    """
    inside = labels != OUTLIER
    rows = l2_normalized(np.asarray(features, np.float64)[inside])
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels[inside], rows)
    mean: np.ndarray = l2_normalized(sums).astype(np.float32)
    return mean


def cluster_loss(
    label: tf.Tensor, feature: tf.Tensor, memory: tf.Tensor, temperature: float = 0.05
) -> tf.Tensor:
    """InfoNCE over clusters: mean of `-log(exp(f.m+ / t) / sum_k exp(f.m_k / t))`.

    Args:
        label: `(B,)` int cluster of each row.
        feature: `(B, D)` float embeddings of length 1.
        memory: `(C, D)` float centroids of length 1.
        temperature: t.

    Returns:
        float32 scalar.
    """
    logits = tf.matmul(feature, memory, transpose_b=True) / temperature
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(label, tf.int32), logits))


def moved_memory(
    label: tf.Tensor, feature: tf.Tensor, memory: tf.Tensor, momentum: float, hardest: bool
) -> tf.Tensor:
    """Move the centroids of a batch's clusters: `m = momentum m + (1 - momentum) f`, scaled to length 1.

    Args:
        label: `(B,)` int cluster of each row.
        feature: `(B, D)` float embeddings of length 1.
        memory: `(C, D)` float centroids of length 1.
        momentum: share of the old centroid.
        hardest: whether f is the cluster's row that is least like the centroid, instead of the mean of its
            rows.

    Returns:
        `(C, D)`; rows of clusters that the batch lacks are unchanged.
    """
    label = tf.cast(label, tf.int32)
    # `(C, B)`: which rows belong to each cluster. Matrix products add in a fixed order; scattered sums do
    # not.
    member = tf.equal(tf.range(tf.shape(memory)[0])[:, None], label[None])
    weight = tf.cast(member, tf.float32)
    if hardest:
        similarity = tf.reduce_sum(feature * tf.gather(memory, label), axis=1)
        least = tf.reduce_min(tf.where(member, similarity[None], np.inf), axis=1)
        weight *= tf.cast(similarity[None] <= least[:, None], tf.float32)
    number = tf.reduce_sum(weight, axis=1, keepdims=True)
    mean = tf.math.divide_no_nan(tf.matmul(weight, feature), number)
    moved = tf.math.l2_normalize(momentum * memory + (1.0 - momentum) * mean, axis=1)
    return tf.where(number > 0, moved, memory)


@keras.saving.register_keras_serializable("san_tf")
class ClusterContrast(keras.Model):
    """An encoder with a memory of cluster centroids, trained by `cluster_loss`.

    Train with `fit` on a `tf.data.Dataset` of dicts: `image` (B, H, W, 3) float32 normalised, `label` (B,)
    int32 cluster. After each step the memory follows the batch, see `moved_memory`. Calling the model on
    images returns their embeddings, scaled to length 1.

    Args:
        encoder: from `build_encoder`; its layers are used in place. Its classifier takes no part.
        clusters: number of clusters, C.
        temperature: of the loss.
        momentum: share of a centroid that a step keeps, in [0, 1].
        hardest: see `moved_memory`.

    Example:
        >>> model = ClusterContrast(encoder, clusters=found.clusters)
        >>> model.memory.assign(centroids(features, found.labels))
        >>> model.compile(build_optimizer(schedule=3.5e-4))
        >>> model.fit(cluster_dataset(records, found.labels, 16, 4, (128, 64)), steps_per_epoch=100)
    """

    def __init__(
        self,
        encoder: keras.Model,
        clusters: int,
        temperature: float = 0.05,
        momentum: float = 0.1,
        hardest: bool = True,
        name: str = "cluster_contrast",
    ) -> None:
        super().__init__(name=name)
        output = encoder.output
        embedding = output["embedding"] if isinstance(output, Mapping) else output
        # Without the classifier, whose weights get no gradient here.
        self.encoder = keras.Model(encoder.input, {"embedding": embedding}, name=f"{encoder.name}_body")
        self.temperature, self.momentum, self.hardest = temperature, momentum, hardest
        self.memory = self.add_weight(
            name="memory",
            shape=(clusters, int(embedding.shape[-1])),
            initializer="zeros",
            dtype="float32",
            trainable=False,
        )
        self.trackers = {key: keras.metrics.Mean(name=key) for key in ("loss", "accuracy")}
        self.built = True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Running means, reset each epoch: the loss, and the share nearest to its own centroid."""
        return list(self.trackers.values())

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the embeddings `(B, D)` float32 of length 1."""
        embedding = self.encoder(image, training=training)["embedding"]
        return tf.math.l2_normalize(tf.cast(embedding, tf.float32), axis=1)

    def train_step(self, data: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Take one optimiser step on a batch, move the memory, and return the running means."""
        label = tf.cast(data["label"], tf.int32)
        memory = tf.convert_to_tensor(self.memory)
        with tf.GradientTape() as tape:
            feature = self(data["image"], training=True)
            loss = cluster_loss(label, feature, memory, self.temperature)
            whole = tf.add_n([loss, *(tf.cast(one, tf.float32) for one in self.losses)])
            scaled = scale_loss(self.optimizer, whole)
        variables = list(self.trainable_variables)
        apply_gradients(self.optimizer, tape.gradient(scaled, variables), variables)
        feature = tf.stop_gradient(feature)
        self.memory.assign(moved_memory(label, feature, memory, self.momentum, self.hardest))
        nearest = tf.argmax(tf.matmul(feature, memory, transpose_b=True), axis=1, output_type=tf.int32)
        self.trackers["loss"].update_state(loss)
        self.trackers["accuracy"].update_state(tf.cast(tf.equal(nearest, label), tf.float32))
        return {key: tracker.result() for key, tracker in self.trackers.items()}


def cluster_steps(labels: np.ndarray, clusters_per_batch: int, crops_per_cluster: int) -> int:
    """Return the batches of an epoch: as many as hold every clustered crop once, and each cluster once.

    Args:
        labels: `(N,)` clusters; -1 is an outlier.
        clusters_per_batch: P, at most the number of clusters.
        crops_per_cluster: K.
    """
    clusters, inside = int(labels.max()) + 1, int(np.count_nonzero(labels != OUTLIER))
    by_crops = -(-inside // (clusters_per_batch * crops_per_cluster))
    return max(by_crops, -(-clusters // clusters_per_batch))


def cluster_batches(
    labels: np.ndarray,
    cameras: np.ndarray,
    clusters_per_batch: int,
    crops_per_cluster: int,
    seed: int,
    epoch: int,
) -> np.ndarray:
    """Plan one epoch of batches: P different clusters with K consecutive crops each.

    Clusters come in shuffled passes, large and small ones equally often. The crops of a cluster are taken
    from its cameras in turn, so that a camera with many crops does not drown the others. A cluster with fewer
    than K crops repeats some.

    Args:
        labels: `(N,)` clusters from 0; -1 is an outlier and left out.
        cameras: `(N,)` int; -1 is unknown and counts as one camera.
        clusters_per_batch: P, at most the number of clusters.
        crops_per_cluster: K.
        seed: of the run.
        epoch: from 0.

    Returns:
        `(steps, P * K)` int64 indices into `labels`; the same for the same arguments, on any machine.
    """
    rng = np.random.default_rng((seed, epoch, 11))
    clusters = int(labels.max()) + 1
    steps = cluster_steps(labels, clusters_per_batch, crops_per_cluster)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(clusters + 1))
    batches = np.empty((steps, clusters_per_batch, crops_per_cluster), np.int64)
    waiting: list[int] = []
    for step in range(steps):
        if len(waiting) < clusters_per_batch:
            # What is left of a pass is dropped: a batch must not hold a cluster twice.
            waiting = rng.permutation(clusters).tolist()
        for place in range(clusters_per_batch):
            found = waiting.pop()
            crops = rng.permutation(order[bounds[found] : bounds[found + 1]])
            batches[step, place] = _by_cameras(crops, cameras[crops], crops_per_cluster)
    return batches.reshape(steps, -1)


def _by_cameras(crops: np.ndarray, cameras: np.ndarray, number: int) -> np.ndarray:
    """The first crops of every camera, then the second ones, and so on; repeated up to `number`."""
    by_camera = np.argsort(cameras, kind="stable")
    first = np.concatenate([[0], np.flatnonzero(np.diff(cameras[by_camera])) + 1])
    sizes = np.diff(np.append(first, len(crops)))
    turn = np.empty(len(crops), np.int64)
    turn[by_camera] = np.arange(len(crops)) - np.repeat(first, sizes)
    # `crops` are shuffled, so that within a turn no camera is always the first.
    ordered = crops[np.argsort(turn, kind="stable")]
    return np.resize(ordered, number)


def cluster_dataset(
    records: Any,
    labels: np.ndarray,
    clusters_per_batch: int,
    crops_per_cluster: int,
    image_size: tuple[int, int],
    augmentation: Any = None,
    seed: int = 0,
    start_step: int = 0,
) -> tf.data.Dataset:
    """Make the batches of `cluster_batches`, decoded and augmented, without end.

    The batch of step i depends only on the arguments and the seed, as in `san_tf.data.train_dataset`.

    Args:
        records: `san_tf.data.Records` of N crops; their identities are not used.
        labels: `(N,)` clusters; -1 is an outlier and left out.
        clusters_per_batch: P.
        crops_per_cluster: K.
        image_size: height and width in pixels.
        augmentation: `san_tf.data.Augmentation`; the paper's by default.
        seed: seed of the run.
        start_step: first step to yield, from 0.
    """
    from san_tf.data.augmentation import Augmentation
    from san_tf.data.pipeline import Part, planned_dataset

    steps = cluster_steps(labels, clusters_per_batch, crops_per_cluster)

    def order(epoch: int) -> np.ndarray:
        return cluster_batches(labels, records.camids, clusters_per_batch, crops_per_cluster, seed, epoch)

    part = Part(records, labels.astype(np.int32), augmentation or Augmentation(), order)
    return planned_dataset(
        [part], steps, image_size, None, None, seed, start_step, None, tf.data.AUTOTUNE, None
    )
