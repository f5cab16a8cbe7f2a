"""The API: what it answers, to whom, and its description."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fastapi.testclient import TestClient
from plain_people import CLOTHES, ORIGIN, StandIn, crop

from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.operating_points import OperatingPoint
from san_tf.page import guard as guarding
from san_tf.page.app import build_app
from san_tf.page.guard import API, Access, Tokens, scope_of
from san_tf.page.page_command import PORT, _parse, main
from san_tf.page.questions import Search
from san_tf.page.server import build_server, listen
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import FIRST_NAMED, GalleryInfo, Source
from san_tf.retrieval.opening import open_gallery

ROOT = Path(__file__).resolve().parents[2]
READER, WRITER, WATCHER = "r" * 32, "w" * 32, "m" * 32
TOKENS = f"""
# name scopes token
office read {READER}
tracker read,write,delete sha256:{hashlib.sha256(WRITER.encode()).hexdigest()}
prometheus metrics {WATCHER}
"""
PNG = {"content-type": "image/png"}
JSON, TEXT = {"content-type": "application/json"}, {"content-type": "text/plain"}
CALIBRATION = Calibration(
    "platt", "euclidean", True, intercept=6.0, slope=-30.0, prior=0.01,
    operating_points=(OperatingPoint(0.001, 0.1, 0.9, 3, 5000, 0.001, 0.95, True, "fits"),),
)  # fmt: skip


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def make_people(place: Path, folder: Path) -> Path:
    """Write a gallery: three people by the cameras `door`, 2 and 3, with times and tags."""
    network = StandIn()
    info = GalleryInfo(network.size, network.name, network.fingerprint, str(folder / "images"))
    with open_gallery(place, create=info) as gallery:
        door = gallery.name_camera("door")
        for person in CLOTHES:
            for camera in range(3):
                name = f"{person:04}_c{camera + 1}.png"
                content = (folder / "images" / name).read_bytes()
                entry = Entry(
                    name, name, (door, 2, 3)[camera], 1_780_000_000.0 + 3600 * camera, person,
                    ("day" if camera < 2 else "night",),
                )  # fmt: skip
                gallery.add(network.embed(content)[None], [entry], [Source(content=gallery.hash_of(content))])
    return place


@pytest.fixture
def people(tmp_path: Path, folder: Path) -> Path:
    return make_people(tmp_path / "people.gallery", folder)


def application(place: Path, writable: bool = True, **choices) -> guarding.Guard:
    gallery = open_gallery(place, read_only=True)
    service = PageService(gallery, StandIn(), "people", (lambda: open_gallery(place)) if writable else None)
    access = Access(**{"writable": writable, "rate": 0.0, **choices})
    return build_app(service, upload_bytes=100_000, access=access, calibration=CALIBRATION)


@pytest.fixture
def api(people: Path) -> Iterator[TestClient]:
    with TestClient(application(people), base_url=ORIGIN) as client:
        yield client


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, folder: Path) -> Iterator[TestClient]:
    """The same for requests that are all refused, so one gallery serves many tests."""
    place = make_people(tmp_path_factory.mktemp("untouched") / "people.gallery", folder)
    with TestClient(application(place), base_url=ORIGIN) as client:
        yield client
    with open_gallery(place, read_only=True) as gallery:
        assert len(gallery) == 9


def ask(client: TestClient, method: str, path: str, **values) -> dict:
    answer = client.request(method, f"{API}{path}", **values)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, status: int, method: str, path: str, **values) -> str:
    answer = client.request(method, f"{API}{path}", **values)
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    sentence = answer.json()["error"]
    assert sentence.endswith(".") and "/tmp" not in sentence and "Traceback" not in sentence
    return sentence


def keys(found: dict) -> list[str]:
    return [hit["key"] for hit in found["hits"]]


def test_the_three_searches_agree_and_their_numbers_are_right(api, people, folder):
    key = "0002_c1.png"
    content = (folder / "images" / key).read_bytes()
    row = StandIn().embed(content)
    by_key = ask(api, "POST", "/search", json={"key": key, "top": 8})
    by_row = ask(api, "POST", "/search", json={"embedding": (7 * row).tolist(), "top": 9})
    by_picture = ask(api, "POST", "/search/picture?top=9", content=content, headers=PNG)
    assert keys(by_picture) == keys(by_row) == [key, *keys(by_key)] and len(by_key["hits"]) == 8
    assert [hit["rank"] for hit in by_key["hits"]] == list(range(1, 9))
    for hit in by_picture["hits"]:
        other = StandIn().embed((folder / "images" / hit["key"]).read_bytes())
        score = float(row @ other / np.linalg.norm(row) / np.linalg.norm(other))
        assert abs(hit["score"] - score) < 1e-5
        # By hand: euclidean distance squared of unit vectors, logistic, prior 1 in 100.
        logit = 6.0 - 30.0 * (2 - 2 * score) + math.log(0.01 / 0.99)
        assert hit["probability"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-3)
    first = by_row["hits"][0]
    assert (first["camera_name"], first["written_time"], first["pid"], first["tags"], first["picture"]) == (
        "door", "2026-05-28T20:26:40Z", 2, ["day"], True,
    )  # fmt: skip


def test_filters_and_thresholds(api, monkeypatch):
    content = crop(2)
    find = lambda query: keys(  # noqa: E731
        ask(api, "POST", f"/search/picture?{query}", content=content, headers=PNG)
    )
    assert set(find("cameras=door")) == {f"{n:04}_c1.png" for n in CLOTHES}
    assert set(find("cameras=door&cameras=3")) == {f"{n:04}_c{c}.png" for n in CLOTHES for c in (1, 3)}
    assert set(find(f"cameras={FIRST_NAMED}")) == set(find("cameras=door"))
    assert set(find("excluded_cameras=door&excluded_cameras=2&pids=1")) == {"0001_c3.png"}
    assert set(find("tags=night")) == {f"{n:04}_c3.png" for n in CLOTHES}
    assert set(find("since=2026-05-28T21:00Z&until=2026-05-28T22:00Z")) == {f"{n:04}_c2.png" for n in CLOTHES}
    assert set(find("since=1780007200")) == {f"{n:04}_c3.png" for n in CLOTHES}
    everything = ask(api, "POST", "/search/picture?top=9", content=content, headers=PNG)["hits"]
    third = everything[2]
    assert find(f"top=9&min_score={third['score'] - 1e-6}") == [hit["key"] for hit in everything[:3]]
    assert find(f"top=9&min_probability={third['probability'] * 0.999}") == [
        hit["key"] for hit in everything[:3]
    ]
    sure = ask(api, "POST", "/search/picture?top=1&prior=0.5", content=content, headers=PNG)["hits"][0]
    assert sure["probability"] > everything[0]["probability"]
    # Re-ranking is the gallery's; the first are re-ranked among themselves, the others follow.
    monkeypatch.setattr("san_tf.page.api.rerank", lambda gallery, row, hits: hits[::-1])
    order = [hit["key"] for hit in everything]
    assert find("top=5&rerank=3") == [*order[2::-1], *order[3:5]]
    as_json = {"embedding": StandIn().embed(content).tolist(), "cameras": ["door", 3], "tags": ["day"]}
    assert set(keys(ask(api, "POST", "/search", json=as_json))) == {f"{n:04}_c1.png" for n in CLOTHES}
    about = ask(api, "GET", "/gallery")
    assert about["cameras"] == {"2": "2", "3": "3", str(FIRST_NAMED): "door"} and about["tags"] == [
        "day",
        "night",
    ]
    assert (about["entries"], about["dimensions"], about["prior"]) == (9, 6, 0.01)
    assert about["thresholds"] == [
        {"false_accept_rate": 0.001, "min_score": 0.95, "true_accept_rate": 0.9, "note": "fits"}
    ]
    part = ask(api, "GET", "/entries?tags=night&start=1&limit=1")
    assert [entry["key"] for entry in part["entries"]] == ["0002_c3.png"] and part["total"] == 9


@pytest.mark.parametrize(
    ("status", "path", "values", "sentence"),
    [
        (400, "/search", {"json": {"key": "0001_c1.png", "cameras": ["hall"]}}, "no camera 'hall'"),
        (400, "/search", {"json": {"key": "0001_c1.png", "cameras": [7]}}, "no camera 7"),
        (400, "/search", {"json": {"key": "0001_c1.png", "tags": ["noon"]}}, "no tag noon"),
        (400, "/search", {"json": {"key": "0001_c1.png", "since": "yesterday"}}, "'yesterday' is not a time"),
        (400, "/search", {"json": {"key": "0001_c1.png", "since": 5, "until": 4}}, "exchange them"),
        (400, "/search", {"json": {"embedding": [1.0, 2.0]}}, "has 2 numbers, and those of"),
        (400, "/search", {"json": {"embedding": [0.0] * 6}}, "all 0"),
        (400, "/search", {"json": {"embedding": [1e200] * 6}}, "not finite"),
        (400, "/search/picture", {"content": b"text", "headers": PNG}, "is not an image in a"),
        (400, "/search/picture", {"content": crop(1)[:90], "headers": PNG}, "damaged"),
        (404, "/search", {"json": {"key": "9999.png"}}, "holds no entry '9999.png'"),
        (413, "/search/picture", {"content": bytes(100_001), "headers": PNG}, "exceeds the limit"),
        (413, "/entries", {"content": b" " * (4 * 2**20 + 1), "headers": JSON},
         "exceeds the limit"),
        (415, "/search/picture", {"content": crop(1), "headers": TEXT}, "Content-Type"),
        (415, "/search/picture", {"files": {"file": crop(1)}}, "needs a picture as its body"),
        (415, "/search", {"content": b"{}"}, "application/json"),
        (422, "/search", {"json": {}}, "either `key` or `embedding`"),
        (422, "/search", {"json": {"key": "a", "topp": 3}}, "topp"),
        (422, "/search", {"json": {"key": "a", "top": 1001}}, "top"),
        (422, "/search", {"content": b"{", "headers": JSON}, "not valid"),
        (422, "/search", {"content": b'{"embedding": [NaN]}', "headers": JSON},
         "finite"),
        (422, "/search/picture?prior=1", {"content": crop(1), "headers": PNG}, "prior"),
        (404, "/nothing", {"json": {}}, "nothing at this address"),
        (404, "/search/", {"json": {"key": "0001_c1.png"}}, "nothing at this address"),
        # In JSON `true` is not 1, and "1" is not 1.
        (422, "/search", {"json": {"embedding": [True] * 6}}, "embedding.0"),
        (422, "/search", {"json": {"embedding": ["1"] * 6}}, "embedding.0"),
        (422, "/search", {"json": {"key": "0001_c1.png", "top": True}}, "top"),
        (422, "/search", {"json": {"key": "0001_c1.png", "cameras": [True]}}, "cameras.0"),
        (422, "/search", {"json": {"key": "0001_c1.png", "since": True}}, "since"),
        (422, "/search", {"json": {"key": "0001_c1.png", "pids": ["1"]}}, "pids.0"),
        (422, "/delete", {"json": {"everything": 1}}, "everything"),
        (422, "/delete", {"json": {"everything": "true"}}, "everything"),
        (422, "/entries", {"json": {"entries": [{"key": "a", "embedding": [True] * 6}]}}, "embedding.0"),
        # Of two values the first would be overlooked, and so would be one in the wrong place.
        (422, "/search", {"content": b'{"key": "0001_c1.png", "key": "0002_c1.png"}', "headers": JSON},
         "given twice"),
        (422, "/delete", {"content": b'{"everything": true, "dry_run": true, "dry_run": 0}', "headers": JSON},
         "given twice"),
        (400, "/search?top=1", {"json": {"key": "0001_c1.png"}}, "has no parameter 'top'"),
        (400, "/delete?dry_run=true", {"json": {"everything": True}}, "has no parameter 'dry_run'"),
        (400, "/search/picture?top=1&top=2", {"content": crop(1), "headers": PNG}, "given twice"),
        (400, "/search/picture?Top=1", {"content": crop(1), "headers": PNG}, "no parameter 'Top'; it has"),
        (400, "/search", {"content": b'{"key": "\xff"}', "headers": JSON}, "send JSON in UTF-8"),
        (400, "/search", {"content": b'{"key":' + b"[" * 100_000, "headers": JSON}, "cannot be read"),
        (400, "/entries/picture?key=a&camera=", {"content": crop(1), "headers": PNG}, "name of a camera"),
        (400, "/entries/picture?key=a&camera=%20door", {"content": crop(1), "headers": PNG}, "blanks"),
        (400, "/entries/picture?key=a&time=1.7e15", {"content": crop(1), "headers": PNG}, "year 9999"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(untouched, status, path, values, sentence):
    assert sentence in refused(untouched, status, "POST", path, **values)


def test_add_search_delete_and_stay_deleted(api, people):
    new = crop(3, 33)
    query = "key=hall/1.png&camera=hall/2&time=2026-05-29T08:00Z&pid=9&tags=day"
    assert ask(api, "POST", f"/entries/picture?{query}", content=new, headers=PNG) == {
        "added": ["hall/1.png"]
    }
    entry = ask(api, "GET", "/entry?key=hall/1.png")
    assert (entry["camera_name"], entry["written_time"], entry["pid"]) == (
        "hall/2",
        "2026-05-29T08:00:00Z",
        9,
    )
    assert not entry["picture"]
    hit = ask(api, "POST", "/search/picture?cameras=hall/2", content=new, headers=PNG)["hits"]
    assert [(each["key"], each["score"]) for each in hit] == [("hall/1.png", 1.0)]
    assert "already" in refused(api, 409, "POST", "/entries/picture?key=hall/1.png", content=new, headers=PNG)
    ask(api, "POST", "/entries/picture?key=hall/1.png&camera=5&replace=true", content=new, headers=PNG)
    assert ask(api, "GET", "/entry?key=hall/1.png")["camera"] == 5
    looked = ask(api, "DELETE", "/entry?key=hall/1.png&dry_run=true")
    assert looked == {"deleted": 1, "keys": ["hall/1.png"], "dry_run": True}
    assert ask(api, "DELETE", "/entry?key=hall/1.png")["deleted"] == 1
    assert "no entry" in refused(api, 404, "DELETE", "/entry?key=hall/1.png")
    for name in ("hall/1.png", "another.png"):  # the key, and the same file under another key
        told = refused(api, 409, "POST", f"/entries/picture?key={name}", content=new, headers=PNG)
        assert "deleted from the gallery for good" in told
    with open_gallery(people) as gallery:
        assert len(gallery) == 9 and gallery.deletions() == 1


def test_rows_are_added_all_or_none(api):
    row = StandIn().embed(crop(1, 50)).tolist()
    good = [{"key": f"t/{n}", "embedding": row, "camera": 4, "time": 1.78e9} for n in range(3)]
    for bad, status in (
        ({"key": "t/9", "embedding": row[:5]}, 400),
        ({"key": "t/0", "embedding": row}, 400),
        ({"key": "0001_c1.png", "embedding": row}, 409),
        ({"key": "t/9", "embedding": row, "tags": ["two words"]}, 400),
        ({"key": "t/9", "embedding": row, "time": "noon"}, 400),
        ({"key": "t/9", "embedding": row, "camera": -5}, 400),
        ({"key": "a\0", "embedding": row}, 400),
        ({"key": "", "embedding": row}, 422),
    ):
        refused(api, status, "POST", "/entries", json={"entries": [*good, bad]})
        assert ask(api, "GET", "/gallery")["entries"] == 9
    assert ask(api, "POST", "/entries", json={"entries": good})["added"] == ["t/0", "t/1", "t/2"]
    assert ask(api, "GET", "/entries?cameras=4")["total"] == 12


def test_deletion_by_conditions_and_by_a_picture(api):
    for wanted, status in (
        ({}, 400),
        ({"keys": ["0001_c1.png"], "everything": True}, 400),
        ({"keys": ["0001_c1.png", "0009.png"]}, 404),
        ({"cameras": ["hall"]}, 400),
        ({"cameras": ["door"], "tags": ["night"]}, 404),
    ):
        refused(api, status, "POST", "/delete", json=wanted)
    assert ask(api, "GET", "/gallery")["entries"] == 9
    looked = ask(api, "POST", "/delete", json={"cameras": ["door"], "dry_run": True})
    assert looked["deleted"] == 3 and ask(api, "GET", "/gallery")["entries"] == 9
    done = ask(api, "POST", "/delete", json={"cameras": ["door"]})
    assert done == {**looked, "dry_run": False} and ask(api, "GET", "/gallery")["entries"] == 6
    refused(api, 404, "POST", "/delete/picture?min_score=1&tags=day", content=crop(1, 99), headers=PNG)
    refused(api, 422, "POST", "/delete/picture", content=crop(1), headers=PNG)
    alike = ask(api, "POST", "/delete/picture?min_score=0.99&pids=1", content=crop(1, 12), headers=PNG)
    assert alike["keys"][0] == "0001_c2.png"
    left = 6 - alike["deleted"]
    assert ask(api, "POST", "/delete", json={"everything": True})["deleted"] == left
    assert ask(api, "GET", "/entries")["entries"] == []


@pytest.mark.parametrize(
    ("query", "body", "sentence"),
    [
        ("dryrun=true", b"", "has no parameter 'dryrun'; it has key, dry_run"),
        ("dry-run=true", b"", "has no parameter 'dry-run'"),
        ("DRY_RUN=true", b"", "has no parameter 'DRY_RUN'"),
        ("key=0002_c1.png", b"", "key is given twice"),
        ("dry_run=true&dry_run=false", b"", "dry_run is given twice"),
        ("", b'{"keys": ["0002_c1.png"]}', "takes no body"),
    ],
)
def test_typing_mistakes_delete_nothing(untouched, query, body, sentence):
    told = refused(untouched, 400, "DELETE", f"/entry?key=0001_c1.png&{query}", content=body, headers=JSON)
    assert sentence in told
    assert ask(untouched, "GET", "/gallery")["entries"] == 9
    # A filter in the body of a list would not be looked at.
    values = {"content": b'{"cameras": ["door"]}', "headers": JSON}
    assert "takes no body" in refused(untouched, 400, "GET", "/entries", **values)


def test_reading_only_unless_asked_for(people):
    with TestClient(application(people, writable=False), base_url=ORIGIN) as client:
        assert ask(client, "GET", "/gallery")["writable"] is False
        for method, path in (("POST", "/entries/picture?key=a"), ("DELETE", "/entry?key=0001_c1.png")):
            assert "--writable" in refused(client, 403, method, path, content=crop(1), headers=PNG)
        assert "--writable" in refused(client, 403, "POST", "/delete", json={"everything": True})


def test_who_may_ask_for_what(people):
    tokens = Tokens(TOKENS, "tokens.txt")
    with TestClient(application(people, tokens=tokens, writable=False), base_url=ORIGIN) as client:
        # Without a service that opens for changes, the scope alone is looked at.
        for path in (f"{API}/gallery", "/", "/api/gallery", "/metrics", "/api/picture?key=0001_c1.png"):
            for headers in ({}, bearer("x" * 32), bearer(READER[:-1]), {"authorization": READER}, bearer("")):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401 and "valid token" in answer.json()["error"]
                assert answer.headers["www-authenticate"].startswith(
                    "Bearer" if path.startswith((API, "/metrics")) else "Basic"
                )
        for path in ("/healthz", f"{API}/docs", f"{API}/openapi.json", "/assets/page.css"):
            assert client.get(path).status_code == 200
        assert client.get(f"{API}/gallery", headers=bearer(READER)).status_code == 200
        password = base64.b64encode(f"anybody:{READER}".encode()).decode()
        assert client.get("/", headers={"authorization": f"Basic {password}"}).status_code == 200
        everything = {"read", "write", "delete", "metrics"}
        for token, allowed in (
            (READER, {"read", "metrics"}), (WRITER, everything), (WATCHER, {"metrics"}),
        ):  # fmt: skip
            for method, path, scope in (
                ("GET", f"{API}/entries", "read"), ("POST", f"{API}/search", "read"),
                ("GET", "/metrics", "metrics"),
                ("POST", f"{API}/entries", "write"), ("POST", f"{API}/entries/picture?key=a", "write"),
                ("POST", f"{API}/delete", "delete"), ("DELETE", f"{API}/entry?key=a", "delete"),
                ("GET", "/api/gallery", "read"), ("POST", "/api/search", "read"),
            ):  # fmt: skip
                status = client.request(method, path, headers=bearer(token), content=b"").status_code
                assert (status == 403) == (scope not in allowed), (token, path, status)


def test_each_path_has_the_scope_that_its_name_says(api):
    schema = ask(api, "GET", "/openapi.json")
    scopes = {
        (method.upper(), path.removeprefix(API)): operation["x-scope"]
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    }
    changes = {pair: scope for pair, scope in scopes.items() if scope != "read"}
    assert changes == {
        ("POST", "/entries"): "write", ("POST", "/entries/picture"): "write", ("DELETE", "/entry"): "delete",
        ("POST", "/delete"): "delete", ("POST", "/delete/picture"): "delete",
    }  # fmt: skip
    assert scope_of("HEAD", f"{API}/entries") == "read" and scope_of("PUT", f"{API}/entries") == "write"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "holds no token"),
        ("office read", "Line 1 of tokens.txt has 2 words"),
        ("office read short", "too short"),
        (f"\noffice all {READER}", "Line 2 of tokens.txt names the scope 'all'; choose from read, write"),
        (f"office read {READER}\noffice read {WRITER}", "a name that is taken"),
        (f"office read {READER};shop read {READER}", "repeats a token"),
        ("office read sha256:12", "64 hexadecimal digits"),
        (f"office\x1b read {READER}", "odd letters"),
    ],
)
def test_tokens_that_cannot_be_used(text, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        Tokens(text, "tokens.txt")
    assert READER not in str(caught.value) and WRITER not in str(caught.value)


def test_tokens_are_compared_in_constant_time_and_not_kept(monkeypatch):
    tokens, compared = Tokens(TOKENS, "tokens.txt"), []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return first == second

    monkeypatch.setattr(guarding.hmac, "compare_digest", compare)
    assert tokens.holder_of(f"bearer {READER}").name == "office"
    assert len(compared) == 3 and all(len(each) == 32 for pair in compared for each in pair)
    assert READER not in repr(vars(tokens)) and WRITER not in repr(vars(tokens))
    assert tokens.holder_of("Basic !!!") is None and tokens.holder_of("Bearer \xff\u20ac") is None


def test_another_method_is_told(untouched):
    for method, path in (("PUT", "/entries"), ("POST", "/gallery"), ("GET", "/search")):
        told = refused(untouched, 405, method, path, headers={"Content-Type": "application/json"})
        assert told == f"This address does not take {method!r}; /api/v1/docs says what it takes."


def test_the_start_of_the_server_is_no_search_of_anybody(people):
    class Warm(StandIn):
        def warm_up(self) -> None:
            pass

    with open_gallery(people, read_only=True) as gallery:
        service = PageService(gallery, Warm(), "people")
        service.warm_up()
        assert not (people / "audit.jsonl").exists()
        service.search(Search(key="0001_c1.png"))
        assert len((people / "audit.jsonl").read_text().splitlines()) == 1


def test_the_audit_log_names_the_token(people):
    with TestClient(application(people, tokens=Tokens(TOKENS, "t")), base_url=ORIGIN) as client:
        ask(client, "POST", "/search", json={"key": "0001_c1.png"}, headers=bearer(READER))
        ask(client, "DELETE", "/entry?key=0001_c1.png", headers=bearer(WRITER))
    lines = [json.loads(line) for line in (people / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["token"]) for line in lines] == [
        ("search", "office"),
        ("delete", "tracker"),
    ]
    assert READER not in (people / "audit.jsonl").read_text()


def test_a_rate_for_each_token_and_for_wrong_ones(people, monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(guarding.time, "monotonic", lambda: now.time)
    tokens = Tokens(TOKENS, "t")
    with TestClient(application(people, tokens=tokens, rate=2.0), base_url=ORIGIN) as client:

        def get(token: str) -> int:
            return client.get(f"{API}/entry?key=0001_c1.png", headers=bearer(token)).status_code

        assert [get(READER) for _ in range(6)] == [200] * 4 + [429] * 2
        assert get(WRITER) == 200
        answer = client.get(f"{API}/entry?key=0001_c1.png", headers=bearer(READER))
        assert answer.headers["retry-after"] == "1" and "Too many requests" in answer.json()["error"]
        now.time += 1
        assert [get(READER) for _ in range(3)] == [200, 200, 429]
        assert [get("x" * 30) for _ in range(22)] == [401] * 20 + [429] * 2
        assert get(WRITER) == 200  # wrong tokens do not lock out right ones


def test_other_sites_may_not_use_the_api(api):
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        for method, path in (("GET", "/gallery"), ("POST", "/search"), ("DELETE", "/entry?key=0001_c1.png")):
            assert "another web site" in refused(api, 403, method, path, headers=headers)
    assert api.options(f"{API}/entry", headers={"origin": "http://evil.example"}).status_code == 403
    assert api.get("/metrics", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert refused(api, 421, "GET", "/gallery", headers={"host": "evil.example"})
    assert api.get("/healthz", headers={"host": "evil.example"}).status_code == 421
    # A link from elsewhere to the description is harmless.
    assert api.get(f"{API}/docs", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_the_public_name_of_a_proxy(people):
    names = {"public_names": ("People.example.org",)}
    with TestClient(application(people, **names), base_url="http://people.example.org") as client:
        search = {"json": {"key": "0001_c1.png"}}
        for origin in ("https://people.example.org", "http://people.example.org"):
            ask(client, "POST", "/search", headers={"origin": origin}, **search)
        refused(client, 403, "POST", "/search", headers={"origin": "https://evil.example.org"}, **search)
        # The other names have no TLS.
        refused(
            client,
            403,
            "POST",
            "/search",
            headers={"origin": "https://localhost", "host": "localhost"},
            **search,
        )


def test_health_and_metrics(api, people):
    from prometheus_client.parser import text_string_to_metric_families

    assert api.get("/healthz").json() == {"status": "ok"}
    assert api.head("/healthz").status_code == 200
    ask(api, "POST", "/search", json={"key": "0001_c1.png"})
    refused(api, 404, "POST", "/search", json={"key": "nobody"})
    api.get("/strange/path")
    text = api.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {
        (sample.name, sample.labels.get("path"), sample.labels.get("status")): sample.value
        for family in text_string_to_metric_families(text.text)
        for sample in family.samples
    }
    assert found["san_tf_gallery_entries", None, None] == 9
    assert found["san_tf_requests_total", f"{API}/search", "200"] == 1
    assert found["san_tf_requests_total", f"{API}/search", "404"] == 1
    assert found["san_tf_requests_total", "other", "404"] == 1
    assert found["san_tf_request_seconds_count", f"{API}/search", None] == 2
    assert found["process_resident_memory_bytes", None, None] > 1e6
    people.rename(people.with_name("gone"))
    answer = api.get("/healthz")
    assert answer.status_code in (404, 503) and "removed or replaced" in answer.json()["error"]
    assert "san_tf_gallery_entries NaN" in api.get("/metrics").text


def test_the_description_is_right(api):
    jsonschema = pytest.importorskip("jsonschema")
    schema = ask(api, "GET", "/openapi.json")
    assert schema["openapi"].startswith("3.1")
    # Answers are as described.
    for method, path, values in (
        ("GET", "/gallery", {}), ("GET", "/entries", {}),
        ("POST", "/search", {"json": {"key": "0001_c1.png"}}),
        ("DELETE", "/entry?key=0002_c1.png", {}), ("GET", "/entry?key=0001_c1.png", {}),
    ):  # fmt: skip
        operation = schema["paths"][f"{API}{path.partition('?')[0]}"][method.lower()]
        part = operation["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(ask(api, method, path, **values), {**part, "components": schema["components"]})
        assert operation["responses"]["401"]["content"]["application/json"]["schema"]["$ref"].endswith(
            "/Error"
        )
    text = json.dumps(schema)
    assert "HTTPValidationError" not in text
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in schema["components"]["schemas"]
    page = api.get(f"{API}/docs")
    assert page.headers["content-type"].startswith("text/html")
    for path in schema["paths"]:
        assert path in page.text
    assert "<script" not in page.text and "http://" not in page.text and "https://" not in page.text


def test_no_opening_to_others_without_tokens(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("SAN_TF_TOKENS", raising=False)
    for argv, environment, sentence in (
        (["--host", "0.0.0.0"], None, "give --tokens or SAN_TF_TOKENS"),
        ([], "", "the variable SAN_TF_TOKENS holds no token"),
        (["--tokens", str(tmp_path / "none")], None, "cannot be read (No such file or directory)"),
        (["--public_name", "https://a.org"], None, "without https:// and port"),
        (["--rate", "-1"], None, "--rate is -1"),
        (["--max_upload", "0"], None, "give 1 to 64 MB"),
    ):
        if environment is not None:
            monkeypatch.setenv("SAN_TF_TOKENS", environment)
        with pytest.raises(SystemExit) as caught:
            main(["--demo", "--port", "0", *argv])
        said = capsys.readouterr().err
        assert caught.value.code == 2 and sentence in said and said.count("\n") == 1
        monkeypatch.delenv("SAN_TF_TOKENS", raising=False)


def _examples(language: str) -> list[str]:
    text = (ROOT / "docs" / "deploy.md").read_text()
    section = text[text.index("\n## An API\n") : text.index("\n### TLS by a proxy\n")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def test_the_guides_commands_and_its_file_of_tokens(tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    commands = re.findall(r"^san-tf serve-ui (.*)$", text, re.M)
    assert len(commands) == 7
    assert {_parse(shlex.split(command, comments=True)).port for command in commands} == {PORT}
    (block,) = (block for block in _examples("sh") if "umask" in block)
    made = "".join(line for line in block.splitlines(True) if not line.startswith("san-tf"))
    subprocess.run(["bash", "-ec", made], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "people.tokens").stat().st_mode & 0o077 == 0
    tokens = Tokens.from_file(tmp_path / "people.tokens")
    for line in (tmp_path / "people.tokens").read_text().splitlines():
        name, scopes, token = line.split()
        assert tokens.holder_of(f"Bearer {token}") == (name, frozenset(scopes.split(",")))


def test_the_guides_examples_on_a_live_server(people, folder, tmp_path):
    """Every `curl` and every line of Python of the guide's section, against a server over a socket."""
    requests = pytest.importorskip("requests")
    server, started = listen("127.0.0.1", 0), threading.Event()
    running = build_server(application(people), started.set)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
    thread.start()
    assert started.wait(20)
    here = f"127.0.0.1:{server.getsockname()[1]}"
    (tmp_path / "crop.jpg").write_bytes(crop(2, kind="JPEG"))
    with open_gallery(people) as gallery:
        gallery.add(StandIn().embed(crop(1))[None], [Entry("0002_c1s1_000451_03.jpg", camera=1)])
    try:
        said = []
        for block in _examples("sh"):
            for command in re.findall(r"^curl (?:.*\\\n)*.*$", block, re.M):
                answer = subprocess.run(
                    ["bash", "-c", command.replace("127.0.0.1:8642", here)],
                    cwd=tmp_path, capture_output=True, text=True, timeout=60,
                    env={**os.environ, "TOKEN": READER},
                )  # fmt: skip
                assert answer.returncode == 0, answer.stderr
                said.append(json.loads(answer.stdout))
        assert len(said) == 8
        # One of the commands has a tag, camera and time that this gallery does not have all at once.
        assert [sorted(each) for each in said] == [
            ["hits"], ["hits"], ["hits"], ["entries", "total"], ["added"], ["deleted", "dry_run", "keys"],
            ["deleted", "dry_run", "keys"], sorted(ask_about(requests, here)),
        ]  # fmt: skip
        first, second = (block.replace("127.0.0.1:8642", here) for block in _examples("python"))
        room = {"embedding": StandIn().embed(crop(2))}
        old = os.getcwd()
        os.chdir(tmp_path)
        try:
            exec(first, room)
            assert room["answer"].json()["hits"][0]["key"].startswith("0002")
            exec(second, room)
        finally:
            os.chdir(old)
        assert room["deleted"] == 1
    finally:
        running.should_exit = True
        thread.join(10)
        server.close()


def ask_about(requests, here: str) -> dict:
    return requests.get(f"http://{here}{API}/gallery", timeout=30).json()
