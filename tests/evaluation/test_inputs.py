import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.evaluation.ranking import evaluate_distances, evaluate_ranking, top_of_distances


def test_mistakes_are_named():
    good, labels = np.ones((3, 4), np.float32), ([1, 1, 1], [0, 1, 2])
    with pytest.raises(UserError, match="'manhattan'; choose one of: euclidean, cosine"):
        evaluate_ranking(good, *labels, good, *labels, metric="manhattan")
    with pytest.raises(UserError, match="have 4 dimensions and gallery features 5"):
        evaluate_ranking(good, *labels, np.ones((3, 5)), *labels)
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(UserError, match=r"gallery features hold NaN or infinity \(first in row 2\)"):
        evaluate_ranking(good, *labels, bad, *labels)
    with pytest.raises(UserError, match=r"query features have shape \(4,\); give one row per image"):
        evaluate_ranking(good[0], *labels, good, *labels)
    with pytest.raises(UserError, match="query features are of type <U1; give real numbers"):
        evaluate_ranking(np.full((3, 4), "x"), *labels, good, *labels)
    with pytest.raises(UserError, match="gallery features are empty"):
        evaluate_ranking(good, *labels, good[:0], [], [])
    with pytest.raises(UserError, match="have no dimensions"):
        evaluate_ranking(good[:, :0], *labels, good[:, :0], *labels)
    bad[2, 1] = 1e30
    with pytest.raises(UserError, match=r"gallery features are too long for float32 \(row 2\)"):
        evaluate_ranking(good, *labels, bad, *labels)
    with pytest.raises(UserError, match=r"query pids have shape \(2,\), but there are 3 images"):
        evaluate_ranking(good, [1, 1], [0, 1], good, *labels)
    with pytest.raises(UserError, match="gallery pids are of type <U1, not whole numbers"):
        evaluate_ranking(good, *labels, good, ["a", "b", "c"], [0, 1, 2])
    with pytest.raises(UserError, match="query camids are of type float64, not whole numbers"):
        evaluate_ranking(good, [1, 1, 1], [0.5, 1, 2], good, *labels)
    with pytest.raises(UserError, match="query pids are of type float64, not whole numbers"):
        evaluate_ranking(good, [1, np.nan, 1], [0, 1, 2], good, *labels)
    with pytest.raises(UserError, match=r"gallery pids hold -2 \(row 1\); ids are 0 or larger, and only -1"):
        evaluate_ranking(good, *labels, good, [1, -2, 1], [0, 1, 2])
    with pytest.raises(UserError, match="too large for int64"):
        evaluate_ranking(good, *labels, good, np.array([1, 2**64 - 1, 1], np.uint64), [0, 1, 2])
    square = np.ones((3, 3))
    with pytest.raises(UserError, match=r"Distances of shape \(3, 3\) from query 1 on do not fit 3 queries"):
        evaluate_distances([(1, square)], *labels, *labels)
    with pytest.raises(UserError, match="distances of query 2 are missing; give every query's"):
        evaluate_distances([(0, square[:2])], *labels, *labels)
    with pytest.raises(UserError, match="distances from query 1 on are given twice"):
        evaluate_distances([(0, square[:2]), (1, square[:2])], *labels, *labels)
    square[1, 0] = np.nan
    with pytest.raises(UserError, match="A distance of query 1 is NaN"):
        evaluate_distances([(0, square)], *labels, *labels)
    with pytest.raises(UserError, match="at least 1 image, not 0"):
        top_of_distances([(0, square)], *labels, *labels, k=0)
