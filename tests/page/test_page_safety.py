"""Who is answered, and what a browser is told to forbid."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from plain_people import HOSTILE, ORIGIN, StandIn, crop, make_gallery

from san_tf.errors import UserError
from san_tf.page.app import answer_csv, build_app
from san_tf.page.guard import HEADERS, Guard, _name
from san_tf.page.service import Found, PageService
from san_tf.retrieval.entries import Entry, Hit
from san_tf.retrieval.gallery import Source

BYTES = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8642", "localhost", "LOCALHOST:1", "[::1]:8642", "127.8.8.8", "localhost.:80"]
)
def test_our_own_names(client, host):
    assert client.get("/api/gallery", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example",
        "192.168.1.7:8642", "", "[::1", "127.0.0.1:8642@evil.example", "localhost:80:80",
        "localhost,evil.example", "0x7f000001", "[::1]evil", "127.0.0.1:", "[::1%evil]", "[::1%25lo]:80",
        "::1%evil", "[localhost]", "[127.0.0.1]", "localhost:99999", "localhost:" + "9" * 5000,
    ],
)  # fmt: skip
def test_a_foreign_name_for_this_machine_is_refused(client, host):
    for path in ("/", "/api/gallery", "/assets/page.js"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421 and "its own address" in answer.json()["error"]


def test_two_hosts_are_none(client):
    answer = client.get("/", headers=[("host", "127.0.0.1:8642"), ("host", "evil.example")])
    assert answer.status_code == 421


def test_a_server_open_to_others_takes_addresses_and_its_names_but_no_others(folder):
    service = PageService(make_gallery(folder), StandIn(), "people")
    with TestClient(build_app(service, ["Shed.local"], addresses=True), base_url=ORIGIN) as client:
        for host, status in (
            ("192.168.1.7:8642", 200),
            ("[fe80::1]:1", 200),
            ("shed.local", 200),
            ("evil.example", 421),
        ):
            assert client.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1"},
        {"origin": "https://127.0.0.1:8642"}, {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)  # fmt: skip
def test_other_sites_may_not_ask(client, headers):
    answer = client.post("/api/search", json={"key": "0001_c1.png"}, headers=headers)
    assert answer.status_code == 403 and "another web site" in answer.json()["error"]
    answer = client.post("/api/uploads", content=crop(1), headers={**BYTES, **headers})
    assert answer.status_code == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://127.0.0.1:9999", ""])
def test_other_sites_may_not_read_either(client, origin):
    for path in ("/api/gallery", "/api/picture?key=0001_c1.png"):
        for ask in (client.get, client.head):
            assert ask(path, headers={"origin": origin}).status_code == 403
            assert ask(path, headers={"origin": ORIGIN}).status_code == 200


def test_other_sites_may_not_show_pictures_but_may_link_to_the_page(client):
    other = {"sec-fetch-site": "cross-site"}
    assert client.get("/api/picture", params={"key": "0001_c1.png"}, headers=other).status_code == 403
    assert client.get("/", headers=other).status_code == 200
    own = {"origin": ORIGIN, "sec-fetch-site": "same-origin"}
    assert client.post("/api/search", json={"key": "0001_c1.png"}, headers=own).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_could_send_is_refused(client, kind):
    body = json.dumps({"key": "0001_c1.png"}).encode()
    assert client.post("/api/search", content=body, headers={"content-type": kind}).status_code == 415
    assert client.post("/api/uploads", content=crop(1), headers={"content-type": kind}).status_code == 415


@given(st.text(max_size=30))
def test_any_host_is_a_name_or_malformed(host):
    name = _name(host)
    assert name is None or name


@pytest.mark.parametrize(
    "path", ["/", "/assets/page.js", "/api/gallery", "/nothing", "/api/picture?key=0001_c1.png"]
)
def test_every_answer_carries_the_headers(client, path):
    for headers in ({}, {"host": "evil.example"}):
        answer = client.get(path, headers=headers)
        for name, value in HEADERS.items():
            assert answer.headers.get_list(name) == [value]
        assert "access-control-allow-origin" not in answer.headers and "server" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_the_page_has_no_inline_scripts_styles_or_foreign_addresses(client):
    page = client.get("/").text
    for forbidden in (
        "<style",
        " style=",
        "javascript:",
        "onclick",
        "onload",
        "onerror",
        "http://",
        "https://",
    ):
        assert forbidden not in page, forbidden
    assert page.count("<script") == page.count('<script type="module" src="/assets/') == 1
    for name in ("page.js", "cards.js", "detail.js", "filters.js", "keys.js", "server.js", "theme.js"):
        code = client.get(f"/assets/{name}").text
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ):
            assert forbidden not in code, (name, forbidden)


def test_hostile_names_stay_text(client):
    listed = client.post("/api/entries", json={"where": {"cameras": [7]}})
    assert listed.headers["content-type"] == "application/json"
    assert listed.json()["entries"][0]["key"] == HOSTILE
    # Their formulas are not formulas in the picture either.
    assert client.post("/api/export/png", json={"key": HOSTILE}).status_code == 200


def test_what_nobody_foresaw_is_one_sentence(folder, monkeypatch):
    service = PageService(make_gallery(folder), StandIn(), "people")
    monkeypatch.setattr(service, "facts", lambda: 1 / 0)
    client = TestClient(build_app(service), base_url=ORIGIN, raise_server_exceptions=False)
    answer = client.get("/api/gallery")
    assert answer.status_code == 500 and "Zero" not in answer.text
    assert answer.json() == {
        "error": "Something went wrong in the program behind this page; its terminal says what."
    }
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_error_names_a_path_of_the_server(folder, monkeypatch, capsys):
    gallery = make_gallery(folder)
    service = PageService(gallery, StandIn(), "people")

    def broken(*_, **__):
        raise UserError(f"The gallery {folder}\x1b[2J is damaged; take a backup of it.")

    for name in ("search", "lookup", "entries", "cameras"):
        monkeypatch.setattr(gallery, name, broken)
    client = TestClient(build_app(service), base_url=ORIGIN)
    for answer in (
        client.get("/api/gallery"),
        client.get("/api/picture", params={"key": "0001_c1.png"}),
        client.post("/api/search", json={"key": "0001_c1.png"}),
        client.post("/api/entries", json={}),
        client.post("/api/export/png", json={"key": "0001_c1.png"}),
    ):
        assert answer.status_code == 503
        assert answer.json() == {"error": "The gallery cannot answer now; the terminal of the page says why."}
    # The terminal says it, without what would clear its screen.
    said = capsys.readouterr().err
    assert said.count(f"Error: The gallery {folder}\\x1b[2J is damaged") == 5 and "\x1b" not in said


def test_what_no_encoding_and_no_calendar_has_does_not_stop_the_page(folder):
    odd = Entry("half \udcff \u202e\0", "", 2**62, float("inf"), 2**62, ("\ud800", "tag\u2028"))
    gallery = make_gallery(folder)
    gallery._add(np.ones((1, 6), np.float32), [odd], [Source()])
    client = TestClient(build_app(PageService(gallery, StandIn(), "p\udcff")), base_url=ORIGIN)
    listed = client.post("/api/entries", json={"where": {"cameras": [2**62 - 1, 7]}})
    assert listed.status_code == 200
    found = {item["key"]: item for item in client.post("/api/entries", json={}).json()["entries"]}
    assert found[odd.key]["time"] is None and found[odd.key]["pid"] == 2**62
    assert client.get("/api/gallery").json()["name"] == "p\udcff"
    for kind in ("csv", "json", "png"):
        answer = client.post(f"/api/export/{kind}", json={"key": "0001_c1.png", "top": 50})
        assert answer.status_code == 200, kind


@pytest.mark.parametrize(
    "sign", ["=", "+", "-", "@", "\t=", "\n=", " =", "\0=", "\uff1d", "\uff0b", "\u200b="]
)
def test_a_spreadsheet_computes_no_key(sign):
    found = Found(None, None, [Hit(Entry(f"{sign}1+1"), 0.5)], 0.0)
    assert next(csv.DictReader(io.StringIO(answer_csv(found)), strict=True))["key"].startswith("'")


def test_sockets_of_other_kinds_are_closed():
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    async def nothing(*_):
        raise AssertionError("it was passed on")

    asyncio.run(
        Guard(nothing, [], False, 1)({"type": "websocket", "path": "/", "headers": []}, nothing, send)
    )
    assert sent == [{"type": "websocket.close", "code": 1008}]
