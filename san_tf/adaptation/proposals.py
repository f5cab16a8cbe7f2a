"""Pairs of crops whose answer, "same person" or not, tells clusters or a calibration the most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from scipy.spatial.distance import squareform
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from san_tf.adaptation.clustering import (
    OUTLIER,
    UNKNOWN_CAMERA,
    Answers,
    ClusterSettings,
    assessed_best,
    camera_centred,
    crop_graph,
    joined_crops,
    obeying,
)
from san_tf.errors import UserError
from san_tf.evaluation.distances import l2_normalized

PURPOSES = ("clusters", "calibration")
# Pairs of one crop in a choice, so that a person sees variety.
_PER_CROP = 2
# Questions about one group of crops in a choice: the first answers change what is worth asking.
_PER_GROUP = 2
# A pair that joins cameras teaches what the encoder does not know yet.
_ACROSS = 2.0
# Members of a cluster that are looked at to divide it.
_FEWEST_MEMBERS, _MOST_MEMBERS = 4, 400
_ONE_MORE = "A group and a single crop"
# Crops that pairs for a calibration are drawn from.
_MOST_DRAWN = 2000
# Of the pairs for a calibration, the share that surely shows two people.
_RANDOM = 1 / 3
# Pairs near a wished score that are tried for it.
_TRIED = 1
# Answers of each kind from which the score of even chances is estimated.
_FEWEST_ANSWERS = 5
# Cosine similarity of copies.
_COPIES = 1.0 - 1e-6
_BLOCK = 512


class Proposal(NamedTuple):
    """A pair of crops to ask a person about.

    Attributes:
        first: row of a crop.
        second: row of another crop.
        why: what the answer decides, in a few words.
    """

    first: int
    second: int
    why: str


class _Question(NamedTuple):
    """A possible question about two groups of crops, each in the order in which they should be shown."""

    gain: float
    groups: tuple[int, int]
    first: np.ndarray
    second: np.ndarray
    why: str


def propose_pairs(
    features: np.ndarray,
    cameras: np.ndarray | None = None,
    count: int = 20,
    answers: Answers | None = None,
    asked: np.ndarray | None = None,
    purpose: str = "clusters",
    settings: ClusterSettings | None = None,
    seed: int = 0,
) -> list[Proposal]:
    """Choose the pairs of crops whose answers tell the most.

    For clusters a question is worth the number of pairs of crops that its answer is expected to change. Two
    groups of crops are probably joined, or a loosely connected cluster is probably divided; a crop without a
    cluster is a group of its own. Groups that together cover more cameras than each alone count twice. Each
    group is shown by its most typical crop.

    For a calibration two thirds of the pairs are crops and their best hits, by another camera where cameras
    are known: half of them spread over all scores, half near the score of even chances. A third are random
    pairs, nearly all of two people. These pairs are harder than usual ones, so thresholds by them are strict,
    and probabilities by them are too high for low scores.

    A pair whose answer follows from earlier ones is never chosen. A crop is in at most two pairs.

    Args:
        features: `(N, D)` float embeddings.
        cameras: `(N,)` int; -1 is unknown; None if no camera is known.
        count: most pairs to choose.
        answers: pairs that were answered.
        asked: `(K, 2)` int, more pairs that are not chosen again, such as those nobody can tell.
        purpose: "clusters" or "calibration".
        settings: how crops are clustered; None for the defaults.
        seed: of the choice among equals, and of random pairs.

    Returns:
        At most `count` pairs, the most informative first; fewer where nothing more is worth asking.

    Raises:
        UserError: fewer than two crops, embeddings that are not finite, other shapes, or answers that
            contradict each other.

    Example:
        >>> for pair in propose_pairs(embeddings, cameras, count=10):
        ...     print(names[pair.first], names[pair.second], pair.why)
    """
    return PairChooser(features, cameras, settings).choose(count, answers, asked, purpose, seed)


class PairChooser:
    """Chooses pairs again and again among the same crops, which are compared only once; see `propose_pairs`.

    Args:
        features: `(N, D)` float embeddings.
        cameras: `(N,)` int; -1 is unknown; None if no camera is known.
        settings: how crops are clustered; None for the defaults.

    Raises:
        UserError: as `propose_pairs`.

    Example:
        >>> chooser = PairChooser(embeddings, cameras)
        >>> pairs = chooser.choose(10)
        >>> more = chooser.choose(10, answers)
    """

    def __init__(
        self,
        features: np.ndarray,
        cameras: np.ndarray | None = None,
        settings: ClusterSettings | None = None,
    ) -> None:
        rows = np.asarray(features)
        if rows.ndim != 2 or rows.dtype.kind not in "fiu":
            raise UserError(f"Embeddings are numbers, (N, D); received {rows.dtype} of shape {rows.shape}.")
        if len(rows) < 2:
            raise UserError(f"Pairs need at least two crops, and {len(rows)} was given; add crops.")
        rows = rows.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
        bad = ~np.isfinite(lengths) | (lengths == 0)
        if bad.any():
            raise UserError(
                f"Embedding {int(np.argmax(bad))} is not finite or all 0; leave out its crop, or embed "
                "it again."
            )
        if cameras is None:
            cameras = np.full(len(rows), UNKNOWN_CAMERA)
        self._cameras = np.asarray(cameras)
        if self._cameras.shape != (len(rows),) or self._cameras.dtype.kind not in "iu":
            raise UserError(
                f"Cameras are whole numbers, one for each of the {len(rows)} crops; received "
                f"{self._cameras.dtype} of shape {self._cameras.shape}."
            )
        self._settings = settings = settings or ClusterSettings()
        self._rows: np.ndarray = l2_normalized(rows)
        centred = camera_centred(rows, self._cameras) if settings.centre_cameras else self._rows
        self._centred = centred
        self._compared: tuple[csr_matrix, csr_matrix, np.ndarray] | None = None

    def __len__(self) -> int:
        """Return the number of crops."""
        return len(self._rows)

    def choose(
        self,
        count: int = 20,
        answers: Answers | None = None,
        asked: np.ndarray | None = None,
        purpose: str = "clusters",
        seed: int = 0,
    ) -> list[Proposal]:
        """Choose pairs; see `propose_pairs`.

        Args:
            count: most pairs to choose.
            answers: pairs that were answered.
            asked: `(K, 2)` int, more pairs that are not chosen again.
            purpose: "clusters" or "calibration".
            seed: of the choice among equals, and of random pairs.
        """
        if count < 1:
            raise UserError(f"At least 1 pair can be chosen, not {count}; ask for more.")
        if purpose not in PURPOSES:
            raise UserError(f"There is no purpose {purpose!r}; choose one of: {', '.join(PURPOSES)}.")
        known = _Known(len(self), answers, asked)
        rng = np.random.default_rng(seed)
        if purpose == "calibration":
            return self._for_calibration(count, known, rng)
        return self._for_clusters(count, known, rng)

    def _for_clusters(self, count: int, known: _Known, rng: np.random.Generator) -> list[Proposal]:
        if self._compared is None:
            graph = crop_graph(self._centred, self._cameras, self._settings, None)
            near = csr_matrix((1.0 - graph.data.astype(np.float64), graph.indices, graph.indptr), graph.shape)
            near.setdiag(0.0)
            self._compared = graph, near, assessed_best(graph, self._cameras, self._settings).labels
        graph, near, labels = self._compared
        chances = _Chances()
        if len(known.answers.same):
            chances.learn(_Groups(labels, near), known.answers)
        groups = _Groups(obeying(known.answers, labels, graph), near)
        questions = [*self._joining(groups, known, chances), *self._dividing(groups, near, known, chances)]
        return _picked(questions, count, known, rng)

    def _joining(self, groups: _Groups, known: _Known, chances: _Chances) -> Iterator[_Question]:
        """Yield questions that may join two groups."""
        seen = [set(self._cameras[crops].tolist()) - {UNKNOWN_CAMERA} for crops in groups.crops]
        apart = {_pair(*pair) for pair in groups.of[known.apart].tolist()}
        for one, other in groups.linked():
            if (one, other) in apart:
                continue
            sizes = int(groups.sizes[one]), int(groups.sizes[other])
            probable = float(chances.same(groups.closeness(one, other), min(sizes)))
            across = len(seen[one] | seen[other]) > max(len(seen[one]), len(seen[other])) > 0
            gain = probable * sizes[0] * sizes[1] * (_ACROSS if across else 1.0)
            what = "Two groups" if min(sizes) > 1 else "Two single crops" if max(sizes) == 1 else _ONE_MORE
            told = f"{what} may be one person{', seen by other cameras' if across else ''}."
            yield _Question(gain, (one, other), groups.crops[one], groups.crops[other], told)

    def _dividing(
        self, groups: _Groups, near: csr_matrix, known: _Known, chances: _Chances
    ) -> Iterator[_Question]:
        """Yield questions that may divide a loosely connected group."""
        for name, crops in enumerate(groups.crops):
            if not _FEWEST_MEMBERS <= len(crops) <= _MOST_MEMBERS:
                continue
            inside = near[crops][:, crops].toarray()
            distances = squareform(1.0 - np.maximum(inside, inside.T), checks=False)
            part = fcluster(linkage(distances, "average"), 2, "maxclust") == 1
            first, second = crops[part], crops[~part]
            units = set(known.unit[first].tolist()), set(known.unit[second].tolist())
            # An answer may join the two parts already.
            if not len(first) or not len(second) or units[0] & units[1]:
                continue
            halves = _Groups(part.astype(np.int64), csr_matrix(inside))
            different = 1.0 - float(chances.same(halves.closeness(0, 1), min(len(first), len(second))))
            shown = crops[halves.crops[1]], crops[halves.crops[0]]
            # A number of its own, so that the whole group can be asked about, too.
            gain = different * len(first) * len(second)
            yield _Question(gain, (name, -1 - name), *shown, "A group may be two people.")

    def _for_calibration(self, count: int, known: _Known, rng: np.random.Generator) -> list[Proposal]:
        drawn = np.sort(rng.permutation(len(self))[:_MOST_DRAWN])
        random = self._random_pairs(drawn, rng)
        best = self._best_hits(drawn, known)
        scores = np.einsum("md,md->m", self._rows[best[:, 0]], self._rows[best[:, 1]])
        border = self._border(known, scores, random)
        uses = np.zeros(len(self), np.int64)
        chosen: list[Proposal] = []
        surely = round(_RANDOM * count)
        spread = (count - surely + 1) // 2
        wanted = np.linspace(scores.max(initial=-1.0), scores.min(initial=1.0), max(spread, 1))
        evenly = [best[place] for score in wanted for place in np.argsort(np.abs(scores - score))[:_TRIED]]
        by_border = best[np.argsort(np.abs(scores - border), kind="stable")]
        # A part may end early, where pairs share crops; the next one then goes on.
        parts = (
            (evenly, spread, "A crop and its best hit."),
            (list(by_border), count - surely, "As likely one person as two."),
            (list(random), count, "Two crops at random."),
        )
        for pairs, end, why in parts:
            for pair in pairs:
                first, second = sorted(map(int, pair))
                # One pair for each crop: pairs that share a person are not independent.
                if len(chosen) < end and not (uses[first] or uses[second] or known.settled(first, second)):
                    uses[first] = uses[second] = 1
                    chosen.append(Proposal(first, second, why))
        return [chosen[place] for place in rng.permutation(len(chosen))]

    def _random_pairs(self, drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return random pairs of drawn crops, by two cameras where cameras are known."""
        pairs = rng.choice(drawn, (4 * len(drawn), 2))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        apart = self._cameras[pairs[:, 0]] != self._cameras[pairs[:, 1]]
        return pairs[apart] if apart.any() else pairs

    def _best_hits(self, drawn: np.ndarray, known: _Known) -> np.ndarray:
        """Return each drawn crop with its most similar one, by another camera where cameras are known."""
        cameras = self._cameras[drawn]
        several = len(set(cameras.tolist()) - {UNKNOWN_CAMERA}) > 1
        pairs = []
        for start in range(0, len(drawn), _BLOCK):
            part = np.arange(start, min(start + _BLOCK, len(drawn)))
            scores = self._rows[drawn[part]] @ self._rows[drawn].T
            scores[np.arange(len(part)), part] = -np.inf
            if several:
                scores[cameras[part][:, None] == cameras[None]] = -np.inf
            hits = scores.argmax(axis=1)
            highest = scores[np.arange(len(part)), hits]
            # Copies of one picture say nothing of people.
            found = np.isfinite(highest) & (highest < _COPIES)
            pairs.append(np.stack([drawn[part[found]], drawn[hits[found]]], axis=1))
        return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)

    def _border(self, known: _Known, best: np.ndarray, random: np.ndarray) -> float:
        """Return the score at which both answers are equally likely, as far as it is known."""
        same = known.answers.same.astype(bool)
        if min(same.sum(), (~same).sum()) >= _FEWEST_ANSWERS:
            rows = self._rows[known.answers.first], self._rows[known.answers.second]
            scores = np.einsum("md,md->m", *rows)
            fitted = LogisticRegression(C=1e3, class_weight="balanced").fit(scores[:, None], same)
            if fitted.coef_[0, 0] > 0:
                return float(np.clip(-fitted.intercept_[0] / fitted.coef_[0, 0], -1.0, 1.0))
        usual = np.einsum("md,md->m", self._rows[random[:, 0]], self._rows[random[:, 1]])
        return float((np.median(best) + np.median(usual)) / 2.0) if len(best) and len(usual) else 0.5


class _Groups:
    """Groups of crops: clusters, and each outlier as a group of its own.

    Args:
        labels: `(N,)` clusters from 0; -1 is an outlier.
        near: `(N, N)` sparse nearness, 1 minus the distance, with a diagonal of 0.

    Attributes:
        of: `(N,)` group of each crop.
        sizes: number of crops of each group.
        crops: crops of each group, the most typical first.
    """

    def __init__(self, labels: np.ndarray, near: csr_matrix) -> None:
        alone = np.flatnonzero(labels == OUTLIER)
        self.of = labels.copy()
        self.of[alone] = labels.max(initial=OUTLIER) + 1 + np.arange(len(alone))
        number = int(self.of.max()) + 1
        ones = np.ones(len(labels))
        member = csr_matrix((ones, (np.arange(len(labels)), self.of)), (len(labels), number))
        sums = (near @ member).tocsr()
        self._shared = (member.T @ sums).tocsr()
        self.sizes = np.bincount(self.of, minlength=number)
        own = np.asarray(sums[np.arange(len(labels)), self.of]).ravel()
        order = np.lexsort((-own, self.of))
        self.crops = np.split(order, np.cumsum(self.sizes)[:-1])
        pairs = self.sizes * (self.sizes - 1)
        within = np.divide(self._shared.diagonal(), pairs, out=np.zeros(number), where=pairs > 0)
        usual = float(np.median(within[within > 0])) if (within > 0).any() else 0.5
        # A few crops may be close by chance, so small groups are drawn to the usual value.
        self._within = np.maximum((within * pairs + usual * 4.0) / (pairs + 4.0), 1e-6)

    def closeness(self, one: int, other: int) -> float:
        """Return the mean nearness between two groups, as a share of that within them; about 0 to 1."""
        between = self._shared[one, other] / (self.sizes[one] * self.sizes[other])
        return float(between / np.sqrt(self._within[one] * self._within[other]))

    def linked(self) -> list[tuple[int, int]]:
        """Return the pairs of groups that share neighbours."""
        edges = self._shared.tocoo()
        kept = (edges.row < edges.col) & (edges.data > 0)
        return [(int(one), int(other)) for one, other in zip(edges.row[kept], edges.col[kept], strict=True)]


class _Chances:
    """Probability that two groups are one person, by their closeness; answers correct it.

    The curve is a logistic one. It was read off generated and rendered people; groups of several crops, which
    could have been clustered together and were not, are less often one person than single crops.
    """

    _MIDDLE, _WIDTH, _SPREAD = 0.45, 0.11, 1.5

    def __init__(self) -> None:
        self._shift = {True: 0.0, False: -1.0}

    def same(self, closeness: float, smallest: int) -> float:
        """Return the probability; `smallest` is the size of the smaller group."""
        return float(expit(self._odds(closeness) + self._shift[smallest == 1]))

    def learn(self, groups: _Groups, answers: Answers) -> None:
        """Shift the curves to what was answered about groups as they were found."""
        seen: dict[bool, list[tuple[float, bool]]] = {True: [], False: []}
        for first, second, same in zip(answers.first, answers.second, answers.same, strict=True):
            one, other = int(groups.of[first]), int(groups.of[second])
            if one != other:
                single = bool(min(groups.sizes[one], groups.sizes[other]) == 1)
                seen[single].append((self._odds(groups.closeness(one, other)), bool(same)))
        for single, told in seen.items():
            odds, same = np.array([odds for odds, _ in told]), np.array([same for _, same in told], float)
            usual = shift = self._shift[single]
            for _ in range(20):  # Newton's method for the most probable shift
                chance = expit(odds + shift)
                slope = (same - chance).sum() - (shift - usual) / self._SPREAD**2
                shift += slope / ((chance * (1.0 - chance)).sum() + 1.0 / self._SPREAD**2)
            self._shift[single] = float(np.clip(shift, -6.0, 6.0))

    def _odds(self, closeness: float) -> float:
        return (closeness - self._MIDDLE) / self._WIDTH


class _Known:
    """What answers say about crops: units that they join, and pairs that are settled.

    Args:
        crops: number of crops.
        answers: pairs that were answered; None for none.
        asked: more pairs not to ask about.
    """

    def __init__(self, crops: int, answers: Answers | None, asked: np.ndarray | None) -> None:
        nothing = np.empty(0, np.int64)
        self.answers = answers or Answers(nothing, nothing, nothing.astype(bool))
        pairs = np.stack([np.asarray(self.answers.first), np.asarray(self.answers.second)], axis=-1)
        others = np.empty((0, 2), np.int64) if asked is None or not len(asked) else np.asarray(asked)
        for told in (pairs, others):
            if told.ndim != 2 or told.shape[1] != 2:
                raise UserError(f"Pairs are two crops each, (M, 2); received shape {told.shape}.")
            if len(told) and (told.dtype.kind not in "iu" or told.min() < 0 or told.max() >= crops):
                wrong = told.max() if told.min() >= 0 else told.min()
                raise UserError(f"A pair names crop {wrong}; the {crops} crops count from 0 to {crops - 1}.")
        same = np.asarray(self.answers.same)
        if same.shape != (len(pairs),):
            raise UserError(f"There are {len(pairs)} answered pairs and {same.size} answers; give one each.")
        self.unit = joined_crops(crops, pairs[same.astype(bool)].astype(np.int64))
        self._untold = {_pair(*pair) for pair in others.tolist()}
        self.apart = pairs[~same.astype(bool)].astype(np.int64)
        self._apart = {_pair(*units) for units in self.unit[self.apart].tolist()}

    def settled(self, first: int, second: int) -> bool:
        """Whether the answer is known, follows from others, or cannot be told."""
        units = int(self.unit[first]), int(self.unit[second])
        return units[0] == units[1] or _pair(*units) in self._apart or _pair(first, second) in self._untold


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _picked(
    questions: Sequence[_Question], count: int, known: _Known, rng: np.random.Generator
) -> list[Proposal]:
    """Pick the best questions, with variety, and none whose answer another one of them may give."""
    order = rng.permutation(len(questions))
    order = order[np.argsort([-questions[place].gain for place in order], kind="stable")]
    uses: dict[int, int] = {}
    asked: dict[int, int] = {}
    leader: dict[int, int] = {}

    def root(group: int) -> int:
        while leader.get(group, group) != group:
            group = leader[group]
        return group

    chosen: list[Proposal] = []
    for place in order:
        if len(chosen) == count:
            break
        question = questions[place]
        one, other = question.groups
        if max(asked.get(one, 0), asked.get(other, 0)) >= _PER_GROUP or root(one) == root(other):
            continue
        # A pair that nobody could tell is asked again with other crops of the same groups.
        pairs = ((int(a), int(b)) for a in question.first[:3] for b in question.second[:3])
        for first, second in pairs:
            if max(uses.get(first, 0), uses.get(second, 0)) < _PER_CROP and not known.settled(first, second):
                chosen.append(Proposal(*_pair(first, second), question.why))
                for crop in (first, second):
                    uses[crop] = uses.get(crop, 0) + 1
                for group in (one, other):
                    asked[group] = asked.get(group, 0) + 1
                leader[root(one)] = root(other)
                break
    return chosen
