"""Pairs to ask a person about, against the truth of generated people and by hand."""

import numpy as np
import pytest
from test_clustering import people

from san_tf import UserError
from san_tf.adaptation import Answers, ClusterSettings, PairChooser, propose_pairs
from san_tf.adaptation.clustering import against_identities, cluster
from san_tf.evaluation.calibration_fit import fit_pairs
from san_tf.evaluation.distances import l2_normalized

FEW = ClusterSettings(k1=8)


def answered(pairs, pids):
    """What somebody who knows the people answers."""
    rows = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
    return Answers(rows[:, 0], rows[:, 1], pids[rows[:, 0]] == pids[rows[:, 1]])


def uneven(seed, noise=0.8):
    """People with 4 to 12 crops each, by three cameras."""
    features, pids, camids = people(seed, 40, 12, noise=noise, cameras=3, shift=0.5)
    rng = np.random.default_rng(seed)
    kept = rng.random(len(pids)) < rng.uniform(0.3, 1, 41)[pids]
    return features[kept], pids[kept], camids[kept]


def asked_in_turn(chooser, pids, number, at_once=10):
    pairs, answers = [], None
    while len(pairs) < number:
        found = chooser.choose(min(at_once, number - len(pairs)), answers)
        assert found, "nothing more is worth asking"
        pairs += found
        answers = answered(pairs, pids)
    return pairs, answers


@pytest.mark.parametrize("seed", [0])
def test_chosen_pairs_mend_clusters_more_than_random_ones_or_best_hits(seed):
    features, pids, camids = uneven(seed)
    number = 50

    def quality(answers):
        found = against_identities(cluster(features, camids, description=None, answers=answers).labels, pids)
        return np.array([found["purity"], found["gathered"]])

    before = quality(None)
    _, chosen = asked_in_turn(PairChooser(features, camids), pids, number)
    rng = np.random.default_rng(seed)
    random = rng.integers(0, len(pids), (number, 2))
    random = random[random[:, 0] != random[:, 1]]
    similar = l2_normalized(features) @ l2_normalized(features).T
    np.fill_diagonal(similar, -2)
    some = rng.choice(len(pids), number, replace=False)
    best = np.stack([some, similar[some].argmax(axis=1)], axis=1)
    after = quality(chosen)
    assert (after >= before).all() and (after >= quality(answered(random, pids))).all()
    # Sum of both: random pairs bring next to nothing, and best hits are mostly known already.
    gains = [
        float((quality(answers) - before).sum()) for answers in (answered(random, pids), answered(best, pids))
    ]
    assert (after - before).sum() > max(0.05, *(2 * gain for gain in gains))


def test_no_answer_is_asked_for_that_is_known_or_follows():
    features, pids, camids = uneven(2, noise=1.0)
    pairs, answers = asked_in_turn(PairChooser(features, camids), pids, 60)
    unit = {crop: crop for crop in range(len(pids))}
    apart = set()
    for number, (first, second, why) in enumerate(pairs):
        assert first < second and why.endswith(".")
        one, other = unit[first], unit[second]
        if number % 10 == 0:
            settled = set(unit.values()), set(apart)
        assert one != other and frozenset((one, other)) not in apart, number
        if answers.same[number]:
            unit = {crop: one if name == other else name for crop, name in unit.items()}
            apart = {frozenset(one if name == other else name for name in pair) for pair in apart}
        else:
            apart.add(frozenset((one, other)))
    assert settled
    for start in range(0, 60, 10):
        crops = [crop for pair in pairs[start : start + 10] for crop in pair[:2]]
        assert max(crops.count(crop) for crop in crops) <= 2


def test_a_pair_that_nobody_can_tell_is_not_asked_again():
    features, _, camids = uneven(3)
    chooser = PairChooser(features, camids)
    first = chooser.choose(5)
    untold = np.array([pair[:2] for pair in first])
    later = chooser.choose(5, asked=untold)
    assert not {pair[:2] for pair in first} & {pair[:2] for pair in later}
    # Other crops of the same groups are shown instead.
    assert later[0].why == first[0].why


def test_the_choice_is_the_same_again_and_the_order_of_calls_does_not_matter():
    features, pids, camids = uneven(4)
    chooser = PairChooser(features, camids, FEW)
    for purpose in ("clusters", "calibration"):
        before = chooser.choose(12, purpose=purpose, seed=7)
        chooser.choose(5, answered(before, pids), purpose=purpose)
        assert chooser.choose(12, purpose=purpose, seed=7) == before
        assert propose_pairs(features, camids, 12, purpose=purpose, settings=FEW, seed=7) == before


def test_by_hand_one_person_in_two_clusters_and_two_people_in_one():
    rng = np.random.default_rng(0)
    axes = np.eye(24)

    def crops(centre, number):
        return centre + 0.04 * rng.standard_normal((number, 24))

    # 0 to 7 and 8 to 15 are near each other; 16 to 23 and 24 to 31 are far from all; 32 is near the first.
    parts = [crops(axes[0], 8), crops(axes[0] + 0.35 * axes[1], 8), crops(axes[2], 8), crops(axes[3], 8)]
    features = np.concatenate([*parts, (axes[0] - 0.3 * axes[4])[None]])
    (best,) = propose_pairs(features, count=1, settings=ClusterSettings(k1=9, distance=0.4))
    assert {best.first // 8, best.second // 8} == {0, 1} and best.why.startswith("Two groups")
    # Said to be two people, it is not asked again, with any crops; nor is one that joins.
    for same in (False, True):
        answers = Answers(np.array([best.first]), np.array([best.second]), np.array([same]))
        more = propose_pairs(
            features, count=30, answers=answers, settings=ClusterSettings(k1=9, distance=0.4)
        )
        assert {0, 1} not in [{pair.first // 8, pair.second // 8} for pair in more]


def test_pairs_for_a_calibration_are_enough_of_both_kinds_for_a_fit():
    features, pids, camids = people(5, 60, 8, noise=1.0, cameras=2, shift=0.3)
    pairs = propose_pairs(features, camids, 90, purpose="calibration")
    crops = [crop for pair in pairs for crop in pair[:2]]
    assert len(pairs) == 90 and len(set(crops)) == len(crops)
    answers = answered(pairs, pids)
    assert min(answers.same.sum(), (~answers.same).sum()) >= 20
    assert (camids[answers.first] != camids[answers.second]).all()
    rows = l2_normalized(features)
    scores = np.einsum("md,md->m", rows[answers.first], rows[answers.second])
    fitted = fit_pairs(1.0 - scores, answers.same, pids[np.stack([answers.first, answers.second], axis=1)])
    assert fitted.of_scores([0.95], 0.5)[0] > 0.9 > 0.1 > fitted.of_scores([0.05], 0.5)[0]
    # They cover the scores, and the middle more than random pairs would.
    assert scores.min() < 0.1 and scores.max() > np.quantile((rows @ rows.T)[camids[:, None] != camids], 0.99)
    more = propose_pairs(features, camids, 30, answers=answers, purpose="calibration")
    assert not {pair[:2] for pair in more} & {pair[:2] for pair in pairs}


@pytest.mark.parametrize("purpose", ["clusters", "calibration"])
@pytest.mark.parametrize("cameras", [None, np.zeros(6, int)])
def test_few_crops_and_copies_are_fine(purpose, cameras):
    assert propose_pairs(np.ones((6, 4)), cameras, 9, purpose=purpose) is not None
    alone = propose_pairs(np.eye(2), None, 5, purpose=purpose)
    assert [pair[:2] for pair in alone] in ([], [(0, 1)])
    everything = Answers(np.zeros(5, int), np.arange(1, 6), np.ones(5, bool))
    assert propose_pairs(np.ones((6, 4)), cameras, 9, everything, purpose=purpose) == []


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"features": np.ones(5)}, "(N, D)"),
        ({"features": np.array([["a", "b"]])}, "numbers"),
        ({"features": np.ones((1, 4))}, "at least two"),
        ({"features": np.array([[1.0, 2.0], [np.nan, 1.0]])}, "Embedding 1"),
        ({"features": np.array([[1.0, 2.0], [0.0, 0.0]])}, "Embedding 1"),
        ({"cameras": np.array([1, 2])}, "one for each of the 8 crops"),
        ({"cameras": np.full(8, 0.5)}, "whole numbers"),
        ({"count": 0}, "At least 1"),
        ({"purpose": "fun"}, "'fun'"),
        ({"answers": Answers(np.array([0]), np.array([8]), np.array([True]))}, "crop 8"),
        ({"answers": Answers(np.array([-1]), np.array([2]), np.array([True]))}, "crop -1"),
        ({"answers": Answers(np.array([0]), np.array([2]), np.array([True, False]))}, "2 answers"),
        ({"asked": np.array([1, 2])}, "two crops each"),
        (
            {"answers": Answers(np.array([0, 1, 0]), np.array([1, 2, 2]), np.array([True, True, False]))},
            "contradict",
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_told_in_one_sentence(changed, told):
    given = {"features": np.random.default_rng(0).standard_normal((8, 4)), **changed}
    with pytest.raises(UserError) as refused:
        propose_pairs(**given)
    assert told in str(refused.value) and "\n" not in str(refused.value)
