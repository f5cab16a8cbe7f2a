"""The gallery of `plain_people`, on disk and behind the page."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the page wants FastAPI: pip install 'san-tf[page]'")
pytest.importorskip("httpx", reason="FastAPI's test client wants httpx")
pytest.importorskip("prometheus_client", reason="the page wants it: pip install 'san-tf[page]'")

from plain_people import CLOTHES, ORIGIN, StandIn, crop, make_gallery

from san_tf.page.app import build_app
from san_tf.page.service import PageService


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Photographs of a gallery, and beside their folder what is nobody's business."""
    folder = tmp_path_factory.mktemp("gallery")
    images = folder / "images"
    (images / "sub").mkdir(parents=True)
    for person in CLOTHES:
        for camera in range(3):
            (images / f"{person:04}_c{camera + 1}.png").write_bytes(crop(person, 12 * camera))
    (images / "sub" / "hostile.png").write_bytes(crop(1, 20))
    (folder / "secret.png").write_bytes(crop(2))
    (images / "text.png").write_text("a shopping list")
    (images / "out.png").symlink_to(folder / "secret.png")
    (images / "up").symlink_to(folder)
    (images / "circle.png").symlink_to("circle.png")
    return folder


@pytest.fixture
def client(folder):
    from fastapi.testclient import TestClient

    application = build_app(PageService(make_gallery(folder), StandIn(), "people"), upload_bytes=100_000)
    return TestClient(application, base_url=ORIGIN)
