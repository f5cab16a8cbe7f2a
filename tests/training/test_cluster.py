"""TF_CONFIG: what it says of the workers, and every way to get it wrong in one sentence with an example."""

from __future__ import annotations

import json
import socket

import pytest

from san_tf.errors import UserError
from san_tf.training.cluster import Cluster, check_port, read_cluster

TWO = {"worker": ["a:1", "b:2"]}


def read(value: object) -> Cluster:
    return read_cluster({"TF_CONFIG": value if isinstance(value, str) else json.dumps(value)})


def test_workers_are_numbered_as_listed_and_the_first_is_chief():
    first, second = (read({"cluster": TWO, "task": {"type": "worker", "index": n}}) for n in (0, 1))
    assert first == Cluster(("a:1", "b:2"), 0)
    assert (first.is_chief, second.is_chief, second.index) == (True, False, 1)


def test_a_chief_of_its_own_comes_before_the_workers():
    cluster = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert read({"cluster": cluster, "task": {"type": "worker", "index": 0}}) == Cluster(
        ("c:3", "a:1", "b:2"), 1
    )
    assert read({"cluster": cluster, "task": {"type": "chief", "index": 0}}).is_chief


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("", "is not set"),
        ("{", "is not JSON"),
        ([], 'has no "cluster"'),
        ({"cluster": TWO}, 'has no "task"'),
        ({"cluster": TWO, "task": {"type": "worker"}}, 'has no "task" with "type" and "index"'),
        ({"cluster": {}, "task": {"type": "worker", "index": 0}}, 'no "worker"'),
        ({"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}, "does not list"),
        (
            {"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}},
            "'a', which is not host:port",
        ),
        ({"cluster": {"worker": [7]}, "task": {"type": "worker", "index": 0}}, "7, which is not host:port"),
        ({"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}, "not host:port"),
        ({"cluster": {"worker": ["a:65536"]}, "task": {"type": "worker", "index": 0}}, "not host:port"),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}, "lists a:1 twice"),
        ({"cluster": TWO, "task": {"type": "worker", "index": 2}}, "goes from 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": -1}}, "goes from 0 to 1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": "0"}}, "not a whole number"),
        ({"cluster": TWO, "task": {"type": "worker", "index": True}}, "not a whole number"),
        ({"cluster": TWO, "task": {"type": "chief", "index": 0}}, "'chief', but its cluster has none"),
        ({"cluster": {**TWO, "ps": ["c:1"]}, "task": {"type": "worker", "index": 0}}, "the job 'ps'"),
        ({"cluster": {**TWO, "chief": ["c:1", "d:1"]}, "task": {"type": "chief", "index": 0}}, "one chief"),
    ],
)
def test_mistakes_are_named_with_an_example(value: object, named: str):
    with pytest.raises(UserError) as caught:
        read(value)
    assert named in str(caught.value)
    assert '"task": {"type": "worker", "index": 0}' in str(caught.value)


def test_a_port_that_is_taken_is_told_before_tensorflow_starts():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Worker 1 cannot listen on port {port}"):
            check_port(Cluster(("a:1", f"localhost:{port}"), 1))
    check_port(Cluster(("a:1", f"localhost:{port}"), 1))
