"""Adapts an encoder to crops without identities, in rounds: embed, cluster, train on the clusters, again.

After each round the clusters of the new encoder are measured without identities, and the encoder with the
best ones is kept. So a run that makes things worse returns the encoder that it started from.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from san_tf import checkpoints
from san_tf.adaptation.clustering import (
    Answers,
    Clustering,
    ClusterSettings,
    against_identities,
    as_plain,
    change,
    cluster,
)
from san_tf.adaptation.contrast import ClusterContrast, centroids, cluster_dataset, cluster_steps
from san_tf.adaptation.norms import fit_norms
from san_tf.atomic import atomic_file
from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import inference_dataset
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.embedding import Embedder
from san_tf.training.loop import train
from san_tf.training.optimizers import build_optimizer
from san_tf.training.run_directory import RunDirectory
from san_tf.training.schedules import WarmupCosine

REPORT = "adaptation.json"
_FORMAT, _VERSION = "san_tf adaptation", 1
# With fewer crops there is nothing to learn from.
FEWEST_CROPS = 32


@dataclass(frozen=True)
class AdaptationSettings:
    """How an encoder is adapted.

    Args:
        rounds: most rounds of clustering and training.
        norms: the first round fits the batch norms to the crops instead (`fit_norms`), which takes seconds
            and no clusters, and is never taken back; with one round, that is all.
        epochs: passes over the clustered crops in a round.
        patience: end after this many rounds without a better score; 0 never.
        clustering: how crops are clustered.
        clusters_per_batch: P.
        crops_per_cluster: K; a batch has P x K crops.
        temperature: of the contrastive loss.
        momentum: share of a centroid that a training step keeps, in [0, 1).
        hardest: centroids follow the crop of a batch that is least like them, instead of the mean.
        learning_rate: highest learning rate of a round.
        weight_decay: L2 penalty of Adam.
        augmentation: of the crops in training.
        seed: of batches and augmentation; on a CPU the same seed gives the same weights.
    """

    rounds: int = 12
    epochs: int = 6
    patience: int = 3
    clustering: ClusterSettings = field(default_factory=ClusterSettings)
    clusters_per_batch: int = 16
    crops_per_cluster: int = 4
    temperature: float = 0.05
    momentum: float = 0.1
    hardest: bool = True
    learning_rate: float = 3.5e-4
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(jitter=0.5))
    seed: int = 0
    norms: bool = False

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "clusters_per_batch", "crops_per_cluster"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; received {getattr(self, name)}.")
        if self.clusters_per_batch < 2:
            raise UserError("A batch needs at least two clusters; give clusters_per_batch of 2 or more.")
        if self.patience < 0 or self.weight_decay < 0:
            raise UserError("patience and weight_decay must not be negative.")
        if not 0 < self.temperature < 1e3 or not 0 <= self.momentum < 1 or not 0 < self.learning_rate < 1e3:
            raise UserError(
                "temperature and learning_rate must be positive, and momentum in [0, 1); received "
                f"{self.temperature}, {self.learning_rate} and {self.momentum}."
            )


@dataclass(frozen=True)
class AdaptationResult:
    """How an adaptation went.

    Attributes:
        kept: round whose encoder was kept; 0 is the encoder that it started from.
        states: one entry for the start and one after each round: `round`, `clusters`, `outliers`, `change`
            (from the round before: adjusted Rand index), `distance`, `silhouette`, `stability`, `spanning`,
            `score`, `seconds`; with known identities also `people`, `purity` and `gathered`, see
            `against_identities`.
        note: why it ended, in half a sentence.
    """

    kept: int
    states: tuple[dict[str, Any], ...]
    note: str


def adapt(
    encoder: keras.Model,
    records: Records,
    workdir: str | os.PathLike[str],
    settings: AdaptationSettings = AdaptationSettings(),
    *,
    answers: Answers | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
    console: Console | None = None,
    save_every_seconds: float | None = 300.0,
    save_every_steps: int | None = None,
) -> AdaptationResult:
    """Adapt an encoder to crops whose identities are unknown; repeating the call resumes an interrupted one.

    Each round embeds all crops, clusters them, and trains on the clusters with `ClusterContrast`. Outliers
    take no part in the training of a round and may join a cluster in the next one: most are further crops of
    a person who has a cluster, so as classes of their own they would push a person's crops apart. The encoder
    with the best score is kept, see `Clustering`.

    Args:
        encoder: encoder to adapt in place, such as from `trainable_encoder`.
        records: crops; cameras are used where they are known (not -1). Identities are not used for training;
            where they are known (above 0), the report compares the clusters with them.
        workdir: folder of checkpoints, `metrics.csv` and `adaptation.json`; each adaptation needs its own.
        settings: how.
        answers: pairs of crops that a person answered; the clusters of every round obey them.
        report: called with the entry of each state, also of those of an earlier process.
        console: console of the progress line; standard output if None.
        save_every_seconds: also save within an epoch after this many seconds; None never.
        save_every_steps: also save within an epoch after this many steps; None never.

    Returns:
        What was kept, and the numbers of all rounds. The encoder holds the kept weights.

    Raises:
        UserError: too few crops, all of them are outliers or one cluster, the folder belongs to another
            adaptation, the loss became NaN, or the disk is full.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving.

    Example:
        >>> encoder = trainable_encoder("runs/synthetic")
        >>> crops = Records.from_folder("crops")
        >>> adapt(encoder, crops, "adapted/run").kept
        5
    """
    _check_number(records)
    run = RunDirectory(workdir)
    with run.held():
        return _Adaptation(encoder, records, run, settings, report, console, answers).go(
            save_every_seconds, save_every_steps
        )


def first_clusters(
    encoder: keras.Model, records: Records, settings: AdaptationSettings, answers: Answers | None = None
) -> tuple[dict[str, Any], Clustering]:
    """Return the entry and the clusters of the encoder as it is, without training or writing anything.

    Args:
        encoder: encoder.
        records: crops.
        settings: how.
        answers: pairs of crops that a person answered.

    Raises:
        UserError: there are too few crops, as for `adapt`.
    """
    _check_number(records)
    began = time.monotonic()
    features = _embedded(encoder, Embedder(encoder, flip=True), records)
    found = cluster(features, records.camids, settings.clustering, answers=answers)
    return _entry(0, found, None, records, began), found


def _check_number(records: Records) -> None:
    if len(records) < FEWEST_CROPS:
        raise UserError(
            f"An adaptation needs at least {FEWEST_CROPS} crops, and there are {len(records)}; add crops."
        )


def _embedded(encoder: keras.Model, embedder: Embedder, records: Records) -> np.ndarray:
    """The embeddings of all crops and their mirror images, averaged, `(N, D)` float32 of length 1."""
    _, height, width, _ = encoder.input.shape
    return embedder(inference_dataset(records, (int(height), int(width))), normalize=True)


def _entry(
    number: int, found: Clustering, before: np.ndarray | None, records: Records, began: float
) -> dict[str, Any]:
    entry = {"round": number, **as_plain(found)}
    entry["change"] = None if before is None else change(before, found.labels)
    if (records.pids >= 1).any():
        entry |= against_identities(found.labels, records.pids)
    return entry | {"seconds": round(time.monotonic() - began, 1)}


class _Adaptation:
    """One adaptation in its run directory.

    `rounds/03/encoder.safetensors` is the encoder after round 3, and `rounds/03/clusters.npz` what it found.
    Both are complete or absent, so a killed process loses at most the steps since the last checkpoint.
    """

    def __init__(
        self,
        encoder: keras.Model,
        records: Records,
        run: RunDirectory,
        settings: AdaptationSettings,
        report: Callable[[dict[str, Any]], None] | None,
        console: Console | None,
        answers: Answers | None,
    ) -> None:
        self.encoder, self.records, self.run, self.settings = encoder, records, run, settings
        self.embedder = Embedder(encoder, flip=True)
        self.answers = answers
        self.report, self.console = report or (lambda entry: None), console
        self.states: list[dict[str, Any]] = []
        self.path = run.path / REPORT

    def go(self, save_every_seconds: float | None, save_every_steps: int | None) -> AdaptationResult:
        """Do the remaining rounds, keep the best encoder, and put it into `encoder`."""
        self._begin()
        note = "all rounds done"
        labels: np.ndarray | None = None
        for number in range(self.settings.rounds + 1):
            began = time.monotonic()
            if number >= max(len(self.states), 1):
                self._train(number, save_every_seconds, save_every_steps)
                # A round's optimiser and graphs refer to each other in circles, which may wait for rounds.
                gc.collect()
            found = self._look(number, labels, began)
            clusters = int(found.max()) + 1
            if clusters < 2 and number == 0 and self.settings.norms:
                continue  # fitting the norms needs no clusters
            if all(state["clusters"] < 2 for state in self.states):
                self._refuse(clusters)
            if clusters < 2:
                note = "no clusters were left"
                break
            labels = found
            self._tidy(number)
            waited = number - self.best
            if self.settings.patience and waited >= self.settings.patience and number < self.settings.rounds:
                note = f"no better score in {waited} rounds"
                break
        self._restore(self.best)
        result = AdaptationResult(self.best, tuple(self.states), note)
        self._write(kept=self.best, note=note)
        return result

    @property
    def best(self) -> int:
        """The first round with the highest score; with fitted norms, of the rounds that have them."""
        scores = [state["score"] if state["clusters"] > 1 else -1.0 for state in self.states]
        # On photographs the norms raised mAP and purity while the score fell, because fewer clusters spanned
        # cameras; the score compares rounds of training.
        first = int(self.settings.norms and len(scores) > 1)
        return first + int(np.argmax(scores[first:]))

    def _folder(self, number: int) -> Path:
        return self.run.path / "rounds" / f"{number:02d}"

    def _begin(self) -> None:
        """Read what an earlier process did, or store the start."""
        start = self._folder(0) / "encoder.safetensors"
        made_with = {
            "settings": _as_json(dataclasses.asdict(self.settings)),
            "crops": _digest_of(self.records),
            "start": _weights_digest(self.encoder),
            "answers": _answers_digest(self.answers),
        }
        # More rounds continue an adaptation; everything else makes another one of it.
        for name in ("rounds", "patience"):
            made_with["settings"].pop(name)
        try:
            stored = json.loads(self.path.read_text())
            if stored.get("format") != _FORMAT or stored.get("version") != _VERSION:
                raise ValueError("it is not of this version")
            self.states = list(stored["states"])
            self.made_with = stored["made_with"]
        except FileNotFoundError:
            self.made_with = made_with
            checkpoints.save(start, self.encoder, None, 0)
            self._write()
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{self.path} cannot be used ({error}); name another folder.") from error
        for name, what in (
            ("crops", "to other crops"),
            ("start", "of another encoder"),
            ("answers", "with other answers"),
        ):
            if self.made_with.get(name) != made_with[name]:
                raise UserError(f"{self.run.path} holds an adaptation {what}; name another folder.")
        theirs, ours = self.made_with["settings"], made_with["settings"]
        for name in ours:
            if theirs.get(name) != ours[name]:
                raise UserError(
                    f"{self.run.path} was begun with {name} {theirs.get(name)!r}, not {ours[name]!r}; give "
                    "the same settings, or name another folder."
                )

    def _train(self, number: int, seconds: float | None, steps_between: int | None) -> None:
        """Train on the clusters of the round before, unless that was done."""
        path = self._folder(number) / "encoder.safetensors"
        if path.is_file():
            self._restore(number)
            return
        self._restore(number - 1)
        if number == 1 and self.settings.norms:
            fit_norms(self.encoder, self.records, self.settings.seed)
            checkpoints.save(path, self.encoder, None, number)
            return
        labels, memory = _read_clusters(self._folder(number - 1) / "clusters.npz", len(self.records))
        settings = self.settings
        per_batch = min(settings.clusters_per_batch, len(memory))
        steps = cluster_steps(labels, per_batch, settings.crops_per_cluster)
        model = ClusterContrast(
            self.encoder, len(memory), settings.temperature, settings.momentum, settings.hardest
        )
        model.memory.assign(memory)
        total = steps * settings.epochs
        schedule = WarmupCosine(settings.learning_rate, total, min(steps // 2, total - 1))
        optimizer = build_optimizer(schedule=schedule, weight_decay=settings.weight_decay)
        model.compile(optimizer, jit_compile=False)
        _, height, width, _ = self.encoder.input.shape
        stage = f"round_{number:02d}"
        train(
            model,
            lambda step: cluster_dataset(
                self.records,
                labels,
                per_batch,
                settings.crops_per_cluster,
                (int(height), int(width)),
                settings.augmentation,
                seed=1000 * settings.seed + number,
                start_step=step,
            ),
            settings.epochs,
            steps,
            self.run,
            stage,
            save_every_seconds=seconds,
            save_every_steps=steps_between,
            filenames=list(self.records.filenames),
            console=self.console,
        )
        checkpoints.save(path, self.encoder, None, number)

    def _look(self, number: int, before: np.ndarray | None, began: float) -> np.ndarray:
        """Cluster by the encoder as it is, unless that was done; return the labels."""
        path = self._folder(number) / "clusters.npz"
        if len(self.states) > number and path.is_file():
            labels, _ = _read_clusters(path, len(self.records))
            self.report(self.states[number])
            return labels
        features = _embedded(self.encoder, self.embedder, self.records)
        if not np.isfinite(features).all():
            raise UserError(
                f"After round {number} the encoder gives embeddings that are not finite; lower the learning "
                "rate."
            )
        found = cluster(features, self.records.camids, self.settings.clustering, answers=self.answers)
        memory = centroids(features, found.labels) if found.clusters else np.empty((0, features.shape[1]))
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, labels=found.labels, memory=memory.astype(np.float32))
        self.states = [*self.states[:number], _entry(number, found, before, self.records, began)]
        self._write()
        self.report(self.states[number])
        return found.labels

    def _tidy(self, number: int) -> None:
        """Delete what a resumed process does not need: only the best and the newest encoder stay."""
        shutil.rmtree(self.run.path / "checkpoints" / f"round_{number:02d}", ignore_errors=True)
        for other in range(1, number):
            if other != self.best:
                (self._folder(other) / "encoder.safetensors").unlink(missing_ok=True)

    def _restore(self, number: int) -> None:
        checkpoints.restore(self._folder(number) / "encoder.safetensors", self.encoder)

    def _refuse(self, clusters: int) -> None:
        # Nothing was trained: the next attempt, with other crops or settings, starts afresh.
        shutil.rmtree(self.run.path / "rounds", ignore_errors=True)
        self.path.unlink(missing_ok=True)
        if clusters:
            raise UserError(
                f"All {len(self.records)} crops form one cluster, as if they showed one person; add crops of "
                "other people, or lower the distance."
            )
        raise UserError(
            f"None of {len(self.records)} crops has enough near others to form a cluster; raise the "
            "distance, or add crops: a person needs several."
        )

    def _write(self, **facts: Any) -> None:
        content = {"format": _FORMAT, "version": _VERSION, "made_with": self.made_with, "states": self.states}
        with atomic_file(self.path) as temporary:
            temporary.write_text(json.dumps(_as_json({**content, **facts}), indent=2) + "\n")


def _read_clusters(path: Path, crops: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            labels, memory = stored["labels"], stored["memory"]
        if labels.shape != (crops,) or memory.ndim != 2 or labels.max(initial=-1) + 1 != len(memory):
            raise ValueError("its clusters are not those of these crops")
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path} is damaged ({error}); name another folder.") from error
    return labels, memory


def _as_json(values: Any) -> Any:
    """The values as JSON reads them back, so that tuples and NumPy types compare equal."""
    return json.loads(json.dumps(values, default=float, allow_nan=False))


def _digest_of(records: Records) -> str:
    digest = hashlib.sha256(np.asarray(records.camids, np.int64).tobytes())
    for content in records.images:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _answers_digest(answers: Answers | None) -> str | None:
    if answers is None:
        return None
    digest = hashlib.sha256()
    for column in (answers.first, answers.second, answers.same):
        digest.update(np.asarray(column, np.int64).tobytes())
    return digest.hexdigest()


def _weights_digest(encoder: keras.Model) -> str:
    digest = hashlib.sha256()
    for layer in encoder.layers:
        # A classifier is drawn anew each time, and takes no part.
        for value in layer.get_weights() if layer.name != "classifier" else ():
            digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
