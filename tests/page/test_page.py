"""What the page is told: searches held against naive ones, marks and exports by hand."""

from __future__ import annotations

import csv
import io
import shutil

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from plain_people import HOSTILE, ORIGIN, Blind, StandIn, crop, entries, make_gallery, upload

from san_tf.evaluation.calibration import Calibration
from san_tf.evaluation.reranking import rerank
from san_tf.page.app import build_app, is_right, page_files, written_time
from san_tf.page.service import PageService, Recent
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.opening import open_gallery


def _naive(folder, query: np.ndarray) -> list[tuple[str, float]]:
    scores = []
    for entry in entries():
        other = StandIn().embed((folder / "images" / entry.image).read_bytes()).astype(float)
        scores.append((entry.key, float(query @ other / np.linalg.norm(query) / np.linalg.norm(other))))
    return sorted(scores, key=lambda pair: -pair[1])


def test_an_upload_is_ranked_as_by_hand(client, folder):
    content = crop(1, 5)
    found = client.post("/api/search", json={"upload": upload(client, content), "pid": 1, "top": 10}).json()
    wanted = _naive(folder, StandIn().embed(content).astype(float))
    assert [hit["key"] for hit in found["hits"]] == [key for key, _ in wanted]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([score for _, score in wanted], abs=1e-5)
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 11))
    assert found["query"] is None and found["pid"] == 1
    marks = {hit["key"]: hit["right"] for hit in found["hits"]}
    assert marks.pop(HOSTILE) is None  # nobody knows who that is
    assert marks == {key: key.startswith("0001") for key in marks}


def test_an_entry_is_looked_for_without_itself(client):
    found = client.post("/api/search", json={"key": "0002_c1.png", "top": 3}).json()
    assert found["query"]["key"] == "0002_c1.png" and found["pid"] == 2
    assert {hit["key"] for hit in found["hits"][:2]} == {"0002_c2.png", "0002_c3.png"}
    assert [hit["right"] for hit in found["hits"]] == [True, True, False]
    # None of the three may be missing because the query itself took a place.
    assert len(found["hits"]) == 3


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({"cameras": [2]}, {"0001_c2.png", "0002_c2.png", "0003_c2.png"}),
        ({"excluded_cameras": [1, 2, 7]}, {"0001_c3.png", "0002_c3.png", "0003_c3.png"}),
        ({"since": 1_780_003_600, "until": 1_780_007_200}, {"0001_c2.png", "0002_c2.png", "0003_c2.png"}),
        ({"tags": ["night"]}, {"0001_c3.png", "0002_c3.png", "0003_c3.png"}),
        ({"tags": [f"={HOSTILE}"]}, {HOSTILE}),
        ({"tags": ["night", "day"]}, set()),
    ],
)
def test_filters_hold_for_searches_and_lists(client, where, keys):
    found = client.post("/api/search", json={"upload": upload(client, crop(3)), "where": where}).json()
    assert {hit["key"] for hit in found["hits"]} == keys
    assert {
        item["key"] for item in client.post("/api/entries", json={"where": where}).json()["entries"]
    } == keys


def test_the_first_are_re_ranked_and_the_others_stay(folder):
    rng = np.random.default_rng(5)
    gallery = ExactGallery(GalleryInfo(6, "stand-in/1"))
    rows = rng.normal(size=(60, 6))
    gallery.add(rows, [Entry(f"{number:02}") for number in range(60)])
    service = PageService(gallery, StandIn(), "people")
    with TestClient(build_app(service), base_url=ORIGIN) as client:

        def found(**question) -> list[dict]:
            return client.post("/api/search", json={"key": "07", **question}).json()["hits"]

        plain, better = found(top=59), found(top=59, rerank=40)
        scores = {hit["key"]: hit["score"] for hit in plain}
        first = [hit["key"] for hit in better][:40]
        assert set(first) == {hit["key"] for hit in plain[:40]}
        assert [hit["key"] for hit in better[40:]] == [hit["key"] for hit in plain[40:]]
        assert {hit["key"]: hit["score"] for hit in better} == scores
        # The order is that of `evaluation.reranking` on the rows as they are.
        order = np.array([int(hit["key"]) for hit in plain[:40]])
        units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        distances = rerank(units[[7]], units[order], metric="cosine")[0]
        assert first == [f"{order[place]:02}" for place in np.argsort(distances, kind="stable")]
        assert first != [hit["key"] for hit in plain[:40]]
        # A short list is cut from the long one that was re-ranked, and a lone hit stays alone.
        assert [hit["key"] for hit in found(top=5, rerank=40)] == first[:5]
        assert len(found(top=5, rerank=1)) == 5 and len(found(rerank=50, where={"tags": ["none"]})) == 0


def test_the_gallery_in_parts(client):
    whole = [item["key"] for item in client.post("/api/entries", json={}).json()["entries"]]
    assert whole == sorted(entry.key for entry in entries())
    part = client.post("/api/entries", json={"start": 3, "limit": 3}).json()["entries"]
    assert [item["key"] for item in part] == whole[3:6]
    assert part[0] == {
        "key": "0002_c1.png", "camera": 1, "time": 1_780_000_000.0, "pid": 2, "tags": ["day"],
        "picture": True,
    }  # fmt: skip


def test_what_the_page_knows_of_the_gallery(client):
    facts = client.get("/api/gallery").json()
    assert facts == {
        "name": "people", "entries": 10, "cameras": [1, 2, 3, 7], "camera_names": {},
        "tags": sorted(["day", "night", f"={HOSTILE}"]),
        "model": "stand-in/1", "paints": True, "times": True, "identities": True, "pictures": True,
        "upload_bytes": 100_000, "answers": None,
    }  # fmt: skip


def test_pictures_and_textures(client, folder):
    answer = client.get("/api/picture", params={"key": HOSTILE})
    stored = Image.open(folder / "images" / "sub" / "hostile.png")
    np.testing.assert_array_equal(Image.open(io.BytesIO(answer.content)), stored)
    assert answer.headers["content-type"] == "image/png"
    for answer in (
        client.get("/api/texture", params={"key": "0001_c1.png"}),
        client.get("/api/upload-texture", params={"upload": upload(client, crop(1))}),
    ):
        texture = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert texture.shape == (16, 16, 3) and texture[0, 0].tolist() == [200, 30, 30]


def _shown(client, key: str) -> list[int]:
    answer = client.get("/api/picture", params={"key": key})
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))[0, 0].tolist()


def test_what_was_deleted_or_replaced_is_not_shown_any_more(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for name, person in (("a", 1), ("b", 1), ("c", 2)):
        (images / f"{name}.png").write_bytes(crop(person))
    network, place = StandIn(), tmp_path / "people"

    def put(gallery, name: str, person: int) -> None:
        gallery.add(network.embed(crop(person))[None], [Entry(name, f"{name}.png", 1, None, person)])

    with open_gallery(place, create=GalleryInfo(6, "stand-in/1", images=str(images))) as writer:
        for name, person in (("a", 1), ("b", 1), ("c", 2)):
            put(writer, name, person)
        with (
            open_gallery(place, read_only=True) as gallery,
            TestClient(build_app(PageService(gallery, network, "people")), base_url=ORIGIN) as client,
        ):

            def marks() -> dict[str, bool | None]:
                found = client.post("/api/search", json={"key": "a"}).json()
                return {hit["key"]: hit["right"] for hit in found["hits"]}

            texture = {"params": {"key": "b"}}
            assert marks() == {"b": True, "c": False} and _shown(client, "b") == [200, 30, 30]
            before = client.get("/api/texture", **texture).content
            # The same key and the same file are somebody else now.
            (images / "b.png").write_bytes(crop(3))
            put(writer, "b", 3)
            assert marks() == {"b": False, "c": False} and _shown(client, "b") == [230, 220, 90]
            assert client.get("/api/texture", **texture).content != before
            put(writer, "a", 2)  # who is looked for, too
            assert marks() == {"b": False, "c": True}
            writer.delete(["b"])
            assert marks() == {"c": True}
            for answer in (
                client.get("/api/picture", params={"key": "b"}),
                client.get("/api/texture", **texture),
                client.post("/api/search", json={"key": "b"}),
                client.post("/api/export/png", json={"key": "b"}),
            ):
                assert answer.status_code == 404 and "does not hold this entry" in answer.json()["error"]
            (images / "c.png").unlink()
            assert client.get("/api/picture", params={"key": "c"}).status_code == 404
            # The open file would be read for ever.
            place.rename(tmp_path / "removed")
            for _ in range(2):
                for answer in (
                    client.get("/api/gallery"),
                    client.post("/api/entries", json={}),
                    client.post("/api/search", json={"key": "a"}),
                    client.get("/api/picture", params={"key": "a"}),
                ):
                    assert answer.status_code == 404 and "removed or replaced" in answer.json()["error"]
                shutil.copytree(tmp_path / "removed", place, dirs_exist_ok=True)  # another one


def test_an_encoder_without_decoder_says_so(folder):
    application = build_app(PageService(make_gallery(folder), Blind(), "people"))
    with TestClient(application, base_url=ORIGIN) as client:
        assert client.get("/api/gallery").json()["paints"] is False
        answer = client.get("/api/texture", params={"key": "0001_c1.png"})
        assert (answer.status_code, answer.json()) == (400, {"error": "It paints no textures."})
        sheet = client.post("/api/export/png?textures=true", json={"key": "0001_c1.png"})
        assert sheet.status_code == 200


def test_csv(client):
    # The query is the darkest red, so the red ones are nearest; the hostile one is as red.
    question = {"key": "0001_c3.png", "top": 3}
    answer = client.post("/api/export/csv", json=question)
    assert answer.headers["content-disposition"] == 'attachment; filename="ranked.csv"'
    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(answer.text))}
    found = {hit["key"]: hit for hit in client.post("/api/search", json=question).json()["hits"]}
    assert rows.keys() == found.keys() and HOSTILE in rows
    assert rows["0001_c2.png"] == {
        "rank": str(found["0001_c2.png"]["rank"]), "key": "0001_c2.png",
        "score": f"{found['0001_c2.png']['score']:.6f}", "camera": "2", "time": "2026-05-28T21:26:40Z",
        "pid": "1",
        "tags": "day", "right": "yes",
    }  # fmt: skip
    # A spreadsheet would have computed this one.
    assert rows[HOSTILE]["tags"] == f"'={HOSTILE}" and rows[HOSTILE]["right"] == ""


def test_json_and_picture(client):
    question = {"upload": upload(client, crop(2)), "pid": 2, "where": {"cameras": [1, 7]}}
    exported = client.post("/api/export/json", json=question).json()
    found = client.post("/api/search", json=question).json()
    assert exported["hits"] == found["hits"] and exported["where"]["cameras"] == [1, 7]
    assert exported["model"] == "stand-in/1" and exported["pid"] == 2
    sheet = Image.open(io.BytesIO(client.post("/api/export/png?textures=true", json=question).content))
    plain = Image.open(io.BytesIO(client.post("/api/export/png", json=question).content))
    assert sheet.height > plain.height and sheet.width == plain.width > 400
    # The trousers of the second person are in it, and the frame of a right one.
    colors = {color for _, color in plain.convert("RGB").getcolors(1 << 20)}
    assert {(40, 40, 40), (0x2F, 0x9E, 0x60), (0xD6, 0x45, 0x3D)} <= colors


def test_no_hits_can_be_carried_away_too(client):
    question = {"key": "0001_c1.png", "where": {"cameras": [99]}}
    assert client.post("/api/export/csv", json=question).text.count("\n") == 1
    assert client.post("/api/export/png", json=question).status_code == 200


def test_all_that_the_page_names_is_there(client):
    files = page_files()
    assert client.get("/").text == files["index.html"].decode()
    for name in files.keys() - {"index.html"}:
        answer = client.get(f"/assets/{name}")
        assert answer.content == files[name]
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
        assert answer.headers["content-type"].startswith(kind)
    assert client.get("/assets/nothing.js").status_code == 404


@pytest.mark.parametrize(
    ("query", "hit", "right"), [(7, 7, True), (7, 8, False), (7, 0, False), (7, -1, None), (7, None, None),
                                (None, 7, None), (0, 0, None), (-1, -1, None)],
)  # fmt: skip
def test_marks(query, hit, right):
    assert is_right(query, hit) is right


def test_times():
    assert written_time(0.0) == "1970-01-01T00:00:00Z"
    assert written_time(1.5) == "1970-01-01T00:00:01.500Z"
    assert written_time(1e300) == "1e+300"


def test_what_is_not_asked_for_is_forgotten_first():
    recent = Recent(10, len)
    recent.put("a", b"1234")
    recent.put("b", b"1234")
    assert recent.get("a") == b"1234"
    recent.put("c", b"1234")
    assert recent.get("b") is None and recent.get("a") and recent.get("c")
    recent.put("d", b"x" * 100)
    assert recent.get("d") and len(recent) == 1
    recent.put("d", b"x")
    recent.put("e", b"x" * 9)
    assert len(recent) == 2


def test_cameras_have_their_names(folder):
    gallery = make_gallery(folder)
    number = gallery.name_camera("hall/2")
    gallery.add(gallery.embeddings(["0001_c1.png"]), [Entry("named.png", camera=number)])
    with TestClient(build_app(PageService(gallery, StandIn(), "people")), base_url=ORIGIN) as client:
        facts = client.get("/api/gallery").json()
        assert facts["camera_names"] == {str(number): "hall/2"} and number in facts["cameras"]
        wanted = {"key": "0001_c1.png", "top": 1, "where": {"cameras": [number]}}
        assert client.post("/api/search", json=wanted).json()["hits"][0]["key"] == "named.png"
        assert ",hall/2," in client.post("/api/export/csv", json=wanted).text
        of_two = client.post("/api/entries", json={"where": {"pids": [2]}}).json()["entries"]
        assert {entry["pid"] for entry in of_two} == {2}


def test_probabilities_and_nobody_here(folder):
    calibration = Calibration("platt", "cosine", True, intercept=8.0, slope=-40.0)
    service = PageService(make_gallery(folder), StandIn(), "people")
    client = TestClient(build_app(service, calibration=calibration), base_url=ORIGIN)
    found = client.post("/api/search", json={"key": "0002_c1.png", "top": 20}).json()
    for hit in found["hits"]:
        # The ratio of the distance, and one of ten entries before looking.
        odds = np.exp(8.0 - 40.0 * (1.0 - hit["score"])) / 9
        assert hit["probability"] == pytest.approx(odds / (1 + odds), rel=1e-3)
    best = found["hits"][0]["probability"]
    assert best > 0.5 > found["hits"][-1]["probability"] and found["nobody"] is bool(found["problem"])
    stranger = Calibration("platt", "cosine", True, intercept=-8.0, slope=-40.0)
    client = TestClient(build_app(service, calibration=stranger), base_url=ORIGIN)
    assert client.post("/api/search", json={"key": "0002_c1.png"}).json()["nobody"] is True
    # A blank query shows nobody, whatever its score.
    black = io.BytesIO()
    Image.new("RGB", (64, 128)).save(black, "PNG")
    told = client.post("/api/search", json={"upload": upload(client, black.getvalue())}).json()
    assert told["nobody"] is True and told["problem"] == "is nearly blank"


@pytest.mark.parametrize("metric", [None, "euclidean"])
def test_without_a_calibration_of_scores_nothing_is_probable(folder, metric):
    calibration = None if metric is None else Calibration("platt", metric, False, 8.0, -40.0)
    service = PageService(make_gallery(folder), StandIn(), "people")
    client = TestClient(build_app(service, calibration=calibration), base_url=ORIGIN)
    found = client.post("/api/search", json={"key": "0002_c1.png"}).json()
    assert all(hit["probability"] is None for hit in found["hits"])
    assert found["nobody"] is None or found["problem"]
