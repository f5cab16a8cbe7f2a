"""A gallery of plain people that a person can be asked about, with embeddings whose clusters are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from plain_people import ORIGIN, StandIn, crop

from san_tf.page.answers import SamePerson
from san_tf.page.app import build_app
from san_tf.page.guard import Access
from san_tf.page.page_command import _kept_open
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import GalleryInfo

PEOPLE, CROPS = 6, 8


def asked_gallery(folder: Path) -> ExactGallery:
    """Six people with eight crops each by two cameras; `folder` gets their pictures."""
    rng = np.random.default_rng(0)
    # People differ in a direction of their own, and cameras a little.
    centres = np.linalg.qr(rng.standard_normal((StandIn.size, PEOPLE)))[0].T
    gallery = ExactGallery(GalleryInfo(StandIn.size, StandIn.name, StandIn.fingerprint, str(folder)))
    rows, entries = [], []
    for person in range(PEOPLE):
        for number in range(CROPS):
            key = f"{person + 1:04}_c{number % 2 + 1}s1_{number:06}_00.png"
            (folder / key).write_bytes(crop(person % 3 + 1, 10 * (person // 3) + number))
            entries.append(Entry(key, key, number % 2 + 1, 1_780_000_000.0 + number, person + 1))
            rows.append(centres[person] + 0.25 * rng.standard_normal(StandIn.size))
    gallery.add(np.stack(rows), entries)
    return gallery


def asked_client(gallery: ExactGallery, path: Path, access: Access = Access(answers=True)) -> TestClient:  # noqa: B008
    service = PageService(gallery, StandIn(), "people", lambda: _kept_open(gallery))
    asking = SamePerson(service, path)
    return TestClient(build_app(service, access=access, asking=asking), base_url=ORIGIN)


def person(key: str) -> str:
    return key[:4]
