"""The mode "Same person?": its pairs, and answers that are kept, taken back, refused and forgotten."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from asked_people import CROPS, PEOPLE, asked_client, asked_gallery, person
from fastapi.testclient import TestClient
from plain_people import ORIGIN, StandIn

from san_tf.errors import UserError
from san_tf.evaluation.calibrate_command import answered_pairs, read_answers
from san_tf.page.answers import AnswerFile, Kept, SamePerson
from san_tf.page.api import TakenError
from san_tf.page.app import build_app
from san_tf.page.guard import Access, Tokens
from san_tf.page.service import PageService


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def gallery(images):
    return asked_gallery(images)


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "answers.csv"


@pytest.fixture
def asked(gallery, file):
    return asked_client(gallery, file)


def lines(file: Path) -> list[tuple[str, str, str]]:
    with file.open(newline="") as opened:
        return [(row["first"], row["second"], row["same"]) for row in csv.DictReader(opened)]


def give(asked, first, second, same="yes", status=200):
    answer = asked.post("/api/answers", json={"first": first, "second": second, "same": same})
    assert answer.status_code == status, answer.text
    return answer.json()


KEYS = [
    f"{one + 1:04}_c{number % 2 + 1}s1_{number:06}_00.png" for one in range(PEOPLE) for number in range(CROPS)
]


def test_pairs_are_shown_with_what_is_known_and_answered_ones_do_not_come_again(asked, file):
    assert asked.get("/api/gallery").json()["answers"] == {
        "file": "answers.csv", "answered": 0, "same": 0, "different": 0, "untold": 0, "needed": 20
    }  # fmt: skip
    seen = set()
    for turn in range(3):
        found = asked.post("/api/pairs", json={"count": 6}).json()
        assert found["answered"] == len(seen) and found["pairs"]
        for number, pair in enumerate(found["pairs"]):
            keys = [pair[side]["key"] for side in ("first", "second")]
            assert set(keys) <= set(KEYS) and frozenset(keys) not in seen and pair["why"].endswith(".")
            assert pair["first"]["camera"] in (1, 2) and pair["first"]["time"] >= 1_780_000_000
            # Who it is must not be told to somebody who is asked; it may be wrong.
            seen.add(frozenset(keys))
            same = (
                "cannot tell"
                if (turn, number) == (0, 0)
                else "yes"
                if person(keys[0]) == person(keys[1])
                else "no"
            )
            told = give(asked, *keys, same)
            assert told["answered"] == len(seen) and told["before"] is None
    assert {frozenset(line[:2]) for line in lines(file)} == seen
    counted = asked.get("/api/gallery").json()["answers"]
    assert counted["untold"] == 1 and counted["same"] + counted["different"] == len(seen) - 1


def test_a_later_answer_replaces_the_earlier_one_and_undo_restores_it(asked, file):
    first, second = KEYS[0], KEYS[1]
    assert give(asked, first, second, "no")["before"] is None
    assert give(asked, second, first, "yes")["before"] == "no"
    assert lines(file) == [(second, first, "yes")]
    undo = {"first": first, "second": second, "given": "yes", "before": "no"}
    assert asked.post("/api/answers/undo", json=undo).json()["different"] == 1
    assert [line[2] for line in lines(file)] == ["no"]
    # Somebody else answered meanwhile.
    answer = asked.post("/api/answers/undo", json=undo)
    assert answer.status_code == 409 and "that answer stays" in answer.json()["error"]
    undo |= {"given": "no", "before": None}
    assert asked.post("/api/answers/undo", json=undo).json()["answered"] == 0
    assert lines(file) == []


def test_a_contradiction_is_told_and_not_kept(asked, file):
    one, other, third = KEYS[:3]
    give(asked, one, other)
    give(asked, other, third)
    told = give(asked, one, third, "no", status=409)["error"]
    assert "both are one person" in told and "\n" not in told
    assert len(lines(file)) == 2
    give(asked, one, KEYS[8], "no")
    told = give(asked, KEYS[8], third, "yes", status=409)["error"]
    assert f"{one} and {KEYS[8]} are two people" in told
    # The answer that was wrong can be corrected, and then the other one fits.
    give(asked, other, third, "cannot tell")
    give(asked, KEYS[8], third, "yes")


@pytest.mark.parametrize("how", ["delete", "filter", "before"])
def test_deleted_people_are_neither_shown_nor_kept_in_the_file(gallery, file, how):
    access = Access(answers=True, writable=True)
    asked = asked_client(gallery, file, access)
    give(asked, KEYS[0], KEYS[1])
    give(asked, KEYS[2], KEYS[9], "no")
    give(asked, KEYS[10], KEYS[11])
    if how == "before":  # while no page ran
        gallery.delete(KEYS[:8])
        asked = asked_client(gallery, file, access)
    elif how == "delete":
        assert asked.post("/api/v1/delete", json={"keys": KEYS[:8]}).json()["deleted"] == 8
    else:
        assert asked.post("/api/v1/delete", json={"pids": [1]}).json()["deleted"] == 8
    assert lines(file) == [(KEYS[10], KEYS[11], "yes")]
    assert not any(key in file.read_text() for key in KEYS[:8])
    shown = asked.post("/api/pairs", json={"count": 20}).json()
    assert shown["answered"] == 1
    assert not {pair[side]["key"] for pair in shown["pairs"] for side in ("first", "second")} & set(KEYS[:8])
    told = give(asked, KEYS[0], KEYS[9], "no", status=404)["error"]
    assert "or no longer" in told


def test_a_file_whose_people_are_all_deleted_is_empty_and_goes_on(gallery, file, asked):
    give(asked, KEYS[0], KEYS[1])
    gallery.delete(KEYS[:8])
    again = asked_client(gallery, file)
    assert lines(file) == [] and give(again, KEYS[10], KEYS[11])["answered"] == 1


def test_entries_that_may_return_stay_in_the_file_and_are_not_shown(gallery, file, asked):
    give(asked, KEYS[0], KEYS[1])
    give(asked, KEYS[10], KEYS[11])
    gallery.delete([KEYS[0]], for_good=False)
    shown = asked.post("/api/pairs", json={"count": 20}).json()
    assert shown["answered"] == 1 and len(lines(file)) == 2
    assert KEYS[0] not in json.dumps(shown)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"first": "a", "second": "a", "same": "yes"}, "name two entries"),
        ({"first": "a", "second": "b"}, "same"),
        ({"first": "a", "second": "b", "same": "maybe"}, "same"),
        ({"first": "a", "second": "b", "same": True}, "same"),
        ({"first": "a", "second": "b", "same": "yes", "file": "/etc/passwd"}, "file"),
        ({"first": "", "second": "b", "same": "yes"}, "first"),
    ],
)
def test_impossible_answers(asked, file, body, told):
    answer = asked.post("/api/answers", json=body)
    assert answer.status_code == 422 and told in answer.json()["error"]
    assert lines(file) == []
    give(asked, "nobody.png", KEYS[0], status=404)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.example"}, 403), ({"sec-fetch-site": "cross-site"}, 403),
        ({"content-type": "text/plain"}, 415), ({"host": "evil.example"}, 421),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)  # fmt: skip
def test_other_sites_may_not_answer(asked, file, headers, status):
    body = json.dumps({"first": KEYS[0], "second": KEYS[1], "same": "yes", "given": "yes"})
    for path in ("/api/answers", "/api/answers/undo", "/api/pairs"):
        answer = asked.post(path, content=body, headers={"content-type": "application/json", **headers})
        assert answer.status_code == status, path
    assert lines(file) == []


def test_who_may_not_write_may_not_answer(gallery, file):
    given = {"first": KEYS[0], "second": KEYS[1], "same": "yes"}
    # On this machine a file for the answers was named, and nothing else may be changed.
    asked = asked_client(gallery, file)
    assert asked.post("/api/v1/delete", json={"keys": KEYS[:1]}).status_code == 403
    assert asked.post("/api/answers", json=given).status_code == 200
    service = PageService(gallery, StandIn(), "people")
    with TestClient(build_app(service), base_url=ORIGIN) as silent:
        assert silent.get("/api/gallery").json()["answers"] is None
        answer = silent.post("/api/answers", json=given)
        assert answer.status_code == 403 and "--answers FILE" in answer.json()["error"]
        assert silent.post("/api/pairs", json={}).status_code == 404
    read, write = "r" * 20, "w" * 20
    tokens = Tokens(f"one read {read}; other read,write {write}", "test")
    asked = asked_client(gallery, file, Access(tokens, answers=True))
    for token, status in ((None, 401), (read, 403), (write, 200)):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        for path in ("/api/answers", "/api/answers/undo"):
            body = given if path == "/api/answers" else {**given, "given": "yes"}
            body = {name: value for name, value in body.items() if path == "/api/answers" or name != "same"}
            assert asked.post(path, json=body, headers=headers).status_code == status, (token, path)
        if token:
            told = asked.get("/api/gallery", headers=headers).json()["answers"]
            assert (told is None) == (token == read)


def test_few_entries_are_not_asked_about(gallery, file):
    gallery.delete(KEYS[15:])
    asked = asked_client(gallery, file)
    assert asked.get("/api/gallery").json()["answers"] is None
    answer = asked.post("/api/pairs", json={})
    assert answer.status_code == 400 and "from 20 entries" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a,b\n", "must have the columns first, second and same"),
        ("first,second,same\na,b,maybe\n", "line 2: same is 'maybe'"),
        ("first,second,same\na,b,yes\nb,a,no\n", "line 3: the pair has both answers"),
        ("first,second,same\na,,yes\n", "line 2: a pair has two crops"),
        ("first,second,same\na,a,yes\n", "a pair has two"),
        ("first,second,same\nother.png,more.png,yes\n", "none is about two entries of the gallery people"),
        (
            f"first,second,same\n{KEYS[0]},{KEYS[1]},yes\n{KEYS[1]},{KEYS[2]},yes\n{KEYS[0]},{KEYS[2]},no\n",
            "contradict",
        ),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_stays_as_it_is(gallery, file, content, told):
    content = content if isinstance(content, bytes) else content.encode()
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        asked_client(gallery, file)
    assert told in str(refused.value) and "\n" not in str(refused.value)
    assert file.read_bytes() == content


def test_places_that_cannot_be_used(gallery, tmp_path):
    for place, told in ((tmp_path, "not a file"), (tmp_path / "none" / "a.csv", "does not exist")):
        with pytest.raises(UserError, match=told):
            SamePerson(PageService(gallery, StandIn(), "people"), place)


def test_a_file_of_ones_own_goes_on_with_its_columns_rights_and_link(gallery, file, tmp_path):
    real = tmp_path / "real.csv"
    real.write_text(f"\ufefffirst,second,same,by\n{KEYS[0]},{KEYS[1]},1,Ann\n{KEYS[2]},{KEYS[1]},?,Bob\n")
    real.chmod(0o600)
    file.symlink_to(real)
    asked = asked_client(gallery, file)
    told = give(asked, KEYS[8], KEYS[0], "no")
    assert (told["same"], told["different"], told["untold"]) == (1, 1, 1)
    assert file.is_symlink() and real.stat().st_mode & 0o777 == 0o600
    with real.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["by"] for row in rows] == ["Ann", "Bob", ""] and rows[2]["answered"].endswith("Z")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "images", "real.csv"]


def _answer_many(path: str, own: int) -> None:
    file = AnswerFile(path)
    for number in range(25):
        file.keep(Kept(f"{own}_{number}", f"{own}_{number}b", bool(number % 2)))


def test_two_pages_and_a_kill_lose_nothing(tmp_path):
    path = tmp_path / "a.csv"
    AnswerFile(path).prepare()
    start = multiprocessing.get_context("fork")
    writers = [start.Process(target=_answer_many, args=(str(path), own)) for own in range(2)]
    for writer in writers:
        writer.start()
    # Whenever it is read, it is whole.
    while any(writer.is_alive() for writer in writers):
        read_answers(path)
    for writer in writers:
        writer.join()
    assert len(read_answers(path)) == 50
    killed = start.Process(target=_answer_many, args=(str(path), 7))
    killed.start()
    while not any(one.first.startswith("7_") for one in read_answers(path)):
        pass
    os.kill(killed.pid, 9)
    killed.join()
    kept = read_answers(path)
    assert len([one for one in kept if not one.first.startswith("7_")]) == 50
    assert len(kept) > 50
    AnswerFile(path).keep(Kept("x", "y", None))  # a lock of the dead does not last


def test_the_same_undo_twice_takes_back_once(tmp_path):
    file = AnswerFile(tmp_path / "a.csv")
    file.prepare()
    file.keep(Kept("a", "b", True))
    file.undo("b", "a", "yes", None)
    with pytest.raises(TakenError):
        file.undo("b", "a", "yes", None)


def test_calibrate_and_adapt_read_the_file_as_it_is(asked, file):
    give(asked, KEYS[0], KEYS[2])
    give(asked, KEYS[0], KEYS[9], "no")
    give(asked, KEYS[3], KEYS[9], "cannot tell")
    paths = [f"crops/day/{key}" for key in KEYS]
    pairs = answered_pairs(str(file), {"path": paths})
    np.testing.assert_array_equal(pairs.first, [0, 0])
    np.testing.assert_array_equal(pairs.second, [2, 9])
    np.testing.assert_array_equal(pairs.same, [True, False])


PRIVATE = {
    "/api/gallery": None, "/api/picture": {"key": KEYS[0]}, "/api/texture": {"key": KEYS[0]},
    "/api/upload-texture": {"upload": "x"},
}  # fmt: skip


def test_a_querys_picture_is_judged_once_for_each_content(gallery, images, monkeypatch):
    from san_tf.page import service as module
    from san_tf.page.questions import Search

    decoded = []
    true_pixels = module.pixels_for_page
    monkeypatch.setattr(module, "pixels_for_page", lambda content: decoded.append(1) or true_pixels(content))
    service = PageService(gallery, StandIn(), "people")
    first = service.quality(Search(key=KEYS[0]))
    assert [service.quality(Search(key=KEYS[0])) for _ in range(3)] == [first] * 3 and len(decoded) == 1
    (images / KEYS[0]).write_bytes((images / KEYS[1]).read_bytes())  # another picture
    service.quality(Search(key=KEYS[0]))
    assert len(decoded) == 2
    (images / KEYS[0]).unlink()
    assert service.quality(Search(key=KEYS[0])).problem == ""


def test_private_paths_refuse_parameters_that_they_would_overlook(asked):
    for path, needed in PRIVATE.items():
        assert asked.get(path, params=needed).status_code in (200, 404)
        more = [*(needed or {}).items(), ("kye", "x")]
        answer = asked.get(path, params=more)
        assert answer.status_code == 400 and "has no parameter 'kye'" in answer.json()["error"], path
        if needed:
            answer = asked.get(path, params=[*needed.items(), *needed.items()])
            assert answer.status_code == 400 and "given twice" in answer.json()["error"], path
    bodies = {
        "/api/entries": {}, "/api/search": {"key": KEYS[0]}, "/api/pairs": {},
        "/api/answers": {"first": KEYS[0], "second": KEYS[1], "same": "yes"},
        "/api/answers/undo": {"first": KEYS[0], "second": KEYS[1], "given": "yes"},
        "/api/export/json": {"key": KEYS[0]}, "/api/export/csv": {"key": KEYS[0]},
        "/api/export/png": {"key": KEYS[0], "top": 1},
    }  # fmt: skip
    for path, body in bodies.items():
        for given in ("kye=1", "textures=1&textures=0"):
            answer = asked.post(f"{path}?{given}", json=body)
            assert answer.status_code == 400, (path, given)
        assert asked.post(path, json=body).status_code == 200, path
        text = json.dumps(body)[:-1] + (", " if body else "") + '"x": 1, "x": 2}'
        answer = asked.post(path, content=text, headers={"content-type": "application/json"})
        assert answer.status_code == 422 and "given twice" in answer.json()["error"], path
    assert asked.post("/api/export/png?textures=true", json={"key": KEYS[0], "top": 1}).status_code == 200
    headers = {"content-type": "application/octet-stream"}
    assert asked.post("/api/uploads?name=x", content=b"x", headers=headers).status_code == 400
    answer = asked.request("GET", "/api/gallery", content=b"{}")
    assert answer.status_code == 400 and "takes no body" in answer.json()["error"]
