"""P x K sampling: batches of P identities with K images each, planned in NumPy for a whole epoch.

Every plan is a pure function of (seed, epoch), so a run can resume at any step.
"""

from __future__ import annotations

import numpy as np

from san_tf.errors import UserError

# Separates the random streams that the plans of one (seed, epoch) draw from.
_PK_STREAM, _SHUFFLE_STREAM = 1, 2


def pk_steps(pids: np.ndarray, identities_per_batch: int, images_per_identity: int) -> int:
    """Return the number of batches in an epoch of `pk_batches`: it depends on the image counts alone.

    An identity of n images offers `max(1, n // K)` groups of K; the epoch is as long as batches of P groups
    of different identities can be filled.

    Args:
        pids: `(N,)` identities; those below 1 (distractors, junk) are left out.
        identities_per_batch: P.
        images_per_identity: K.

    Raises:
        UserError: P or K is below 1, or there are fewer than P identities.
    """
    if identities_per_batch < 1 or images_per_identity < 1:
        raise UserError(
            f"A batch needs at least one identity and one image of each; received "
            f"{identities_per_batch} x {images_per_identity}."
        )
    _, counts = np.unique(np.asarray(pids)[np.asarray(pids) > 0], return_counts=True)
    if len(counts) < identities_per_batch:
        raise UserError(
            f"Batches of {identities_per_batch} identities x {images_per_identity} images need at least "
            f"{identities_per_batch} training identities, and the data hold {len(counts)}; ask for fewer "
            "identities a batch or add data."
        )
    groups = np.maximum(1, counts // images_per_identity)
    steps = int(groups.sum()) // identities_per_batch
    # One identity with very many images cannot be twice in a batch: its groups beyond the number of steps are
    # of no use, which can shorten the epoch again.
    while np.minimum(groups, steps).sum() < steps * identities_per_batch:
        steps -= 1
    return steps


def pk_batches(
    pids: np.ndarray, identities_per_batch: int, images_per_identity: int, seed: int, epoch: int
) -> np.ndarray:
    """Plan one epoch of batches of P different identities with K images each, K consecutive of one identity.

    Every identity's images are shuffled and cut into groups of K; a remainder sits out this epoch. An
    identity with fewer than K images gives one group in which they repeat; no other image is twice in an
    epoch.

    Args:
        pids: `(N,)` identities; those below 1 (distractors, junk) are left out.
        identities_per_batch: P.
        images_per_identity: K.
        seed: of the run.
        epoch: from 0.

    Returns:
        `(steps, P * K)` int64 indices into `pids`; the same for the same arguments, on any machine.

    Raises:
        UserError: as `pk_steps`.

    Example:
        >>> pk_batches(np.array([5, 5, 7, 7, 9]), 2, 2, seed=0, epoch=0).shape
        (1, 4)
    """
    pids = np.asarray(pids)
    steps = pk_steps(pids, identities_per_batch, images_per_identity)
    rng = np.random.default_rng((seed, epoch, _PK_STREAM))
    candidates = rng.permutation(np.flatnonzero(pids > 0))
    # Stable sort of shuffled candidates: identities together, their images in random order.
    candidates = candidates[np.argsort(pids[candidates], kind="stable")]
    _, starts, counts = np.unique(pids[candidates], return_index=True, return_counts=True)
    groups = np.minimum(np.maximum(1, counts // images_per_identity), steps)

    # Lay the groups of all identities, in random order, in one line, and deal it out to the steps in turn:
    # an identity's groups (at most `steps`) are neighbours in the line, so they land in different batches.
    order = rng.permutation(len(groups))
    owner = np.repeat(order, groups[order])[: steps * identities_per_batch]
    first = np.concatenate([[0], np.flatnonzero(np.diff(owner)) + 1])
    within = np.arange(len(owner)) - np.repeat(first, np.diff(np.append(first, len(owner))))
    member = within[:, None] * images_per_identity + np.arange(images_per_identity)
    indices = candidates[starts[owner][:, None] + member % counts[owner][:, None]]
    batches = indices.reshape(identities_per_batch, steps, images_per_identity).transpose(1, 0, 2)
    return batches[rng.permutation(steps)].reshape(steps, identities_per_batch * images_per_identity)


def shuffled_stream(number: int, start: int, count: int, seed: int) -> np.ndarray:
    """Return elements `start` to `start + count` of an endless stream of shuffled passes over the records.

    Args:
        number: of records, N, at least 1.
        start: position in the stream, from 0.
        count: how many.
        seed: of the run; every pass has its own order.

    Returns:
        `(count,)` int64 in `[0, N)`; every pass of N positions holds each record once.
    """
    passes = range(start // number, (start + count - 1) // number + 1) if count else range(0)
    orders = [np.random.default_rng((seed, epoch, _SHUFFLE_STREAM)).permutation(number) for epoch in passes]
    stream = np.concatenate([*orders, np.empty(0, np.int64)]).astype(np.int64)
    return stream[start % number :][:count]
