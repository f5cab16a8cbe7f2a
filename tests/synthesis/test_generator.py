"""Plans, rendering on any number of processes, Market-1501 folders."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.synthesis import crops, generator, parallel
from san_tf.synthesis.crop_plans import PitConfig, ReidConfig, Variety, allocate
from san_tf.synthesis.people import clothes_texture
from san_tf.synthesis.sensor import decode_rgb

SMALL = ReidConfig(
    "small", 3, 3, train_images=14, queries=7, gallery_images=9, distractors=2, junk=2, image_height=64
)


@pytest.mark.parametrize(
    ("split", "images", "identities"),
    [("train", 12_936, 751), ("query", 3_368, 750), ("gallery", 19_732, 750)],
)
def test_market_sized_has_the_numbers_of_market_1501(split: str, images: int, identities: int) -> None:
    specs = generator.synthetic_reid_index("market_sized", split)
    assert len(specs) == images
    assert len({spec.pid for spec in specs if spec.pid > 0}) == identities
    if split == "gallery":
        counts = Counter(spec.pid for spec in specs if spec.pid < 1)
        assert counts[-1] == 3_819 and images - counts[-1] == 15_913


@pytest.mark.parametrize("config", ["tiny", "market_sized"])
def test_training_and_test_people_are_different(config: str) -> None:
    train, *test = (generator.synthetic_reid_index(config, split) for split in ("train", "query", "gallery"))
    tests = [spec for specs in test for spec in specs]
    assert not {spec.identity_seed for spec in train} & {spec.identity_seed for spec in tests}
    assert not {spec.pid for spec in train} & {spec.pid for spec in tests}
    assert not {spec.passers_by for spec in train} & {spec.passers_by for spec in tests}


def test_different_people_have_different_seeds() -> None:
    specs = [
        spec for split in ("train", "query") for spec in generator.synthetic_reid_index("market_sized", split)
    ]
    specs += [spec for split in ("train", "test") for spec in generator.pit_index("paper", split)]
    people = {(spec.varied, spec.pid): spec.identity_seed for spec in specs}
    assert len(people) == 751 + 750 + 929 + 50
    assert len(set(people.values())) == len(people)


@pytest.mark.parametrize("config", ["tiny", "market_sized"])
def test_every_query_can_be_found_from_another_camera(config: str) -> None:
    queries = generator.synthetic_reid_index(config, "query")
    gallery = generator.synthetic_reid_index(config, "gallery")
    assert len({(spec.pid, spec.camid) for spec in queries}) == len(queries)
    seen: dict[int, set[int]] = {}
    for spec in gallery:
        seen.setdefault(spec.pid, set()).add(spec.camid)
    assert all(seen[spec.pid] - {spec.camid} for spec in queries)
    assert {spec.camid for spec in queries} == set(range(6))


def test_names_are_market_names_that_agree_with_the_records_and_are_unique() -> None:
    names: Counter[str] = Counter()
    for split in generator.REID_SPLITS:
        for spec in generator.synthetic_reid_index("market_sized", split):
            match = re.fullmatch(r"(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d{2})\.jpg", spec.filename)
            assert match, spec.filename
            assert int(match[1]) == spec.pid and int(match[2]) == spec.camid + 1
            names[spec.filename] += 1
    assert max(names.values()) == 1
    assert len({spec.index for spec in generator.synthetic_reid_index("tiny", "gallery")}) == 760


def test_pit_has_the_papers_numbers_and_held_out_textures() -> None:
    train, test = generator.pit_index("paper", "train"), generator.pit_index("paper", "test")
    assert len(train) == 9_290 and set(Counter(spec.pid for spec in train).values()) == {10}
    assert not {spec.pid for spec in train} & {spec.pid for spec in test}
    assert not {spec.identity_seed for spec in train} & {spec.identity_seed for spec in test}
    assert len({spec.camid for spec in (*train, *test)}) == 9_290 + 500


def test_allocation_sums_up_and_respects_minima() -> None:
    rng = np.random.default_rng(0)
    for total in (40, 41, 97):
        weights, minimum = rng.random(8), rng.integers(0, 5, 8)
        shares = allocate(total, weights, minimum)
        assert shares.sum() == total and (shares >= minimum).all()
        exact = minimum + (total - minimum.sum()) * weights / weights.sum()
        assert np.abs(shares - exact).max() < 1


def test_bytes_do_not_depend_on_order_or_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "CHUNK", 4)
    specs = generator.synthetic_reid_index(SMALL, "train")[:7] + generator.pit_index(
        PitConfig("p", 1, 1, 2), "train"
    )
    forward = [crop.image for crop in generator.render_crops(specs, processes=0)]
    backward = [crops.render_crop(spec).image for spec in reversed(specs)][::-1]
    workers = list(generator.render_crops(specs, processes=2))
    assert forward == backward == [crop.image for crop in workers]
    assert [crop.filename for crop in workers] == [spec.filename for spec in specs]
    assert len(set(forward)) == len(forward)


def test_a_pair_carries_the_texture_it_was_painted_with() -> None:
    spec = generator.pit_index("tiny", "test")[0]
    crop = crops.render_crop(spec)
    texture = decode_rgb(crop.texture)
    assert texture.shape == (256, 256, 3) and decode_rgb(crop.image).shape == (128, 64, 3)
    np.testing.assert_array_equal(texture, crops.dressed_person(spec.wearer).texture)
    reid = generator.synthetic_reid_index(SMALL, "train")[0]
    truth = generator.identity_texture(SMALL, reid.pid)
    np.testing.assert_array_equal(truth, crops.dressed_person(reid.wearer).texture)
    with pytest.raises(UserError, match="identities 1 to 6"):
        generator.identity_texture(SMALL, 7)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'huge'.*tiny, market_sized, ablation, smoke, world, world_smoke"):
        generator.synthetic_reid_index("huge", "train")
    with pytest.raises(UserError, match=r"'query'.*train, test"):
        generator.pit_index("tiny", "query")


def test_mistakes_found_by_a_worker_arrive_as_user_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "CHUNK", 1)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    good, bad = generator.pit_index("tiny", "train")[:2], generator.pit_index("tiny", "train", tmp_path)[:1]
    with pytest.raises(UserError, match=r"broken\.jpg"):
        list(generator.render_crops([*good, *bad], processes=1))


def test_export_writes_the_market_layout(tmp_path: Path) -> None:
    folder = generator.export_market(SMALL, tmp_path / "market", processes=0, progress=False)
    found = {place.name: len(list(place.iterdir())) for place in folder.iterdir()}
    assert found == {"bounding_box_train": 14, "query": 7, "bounding_box_test": 13}
    image = decode_rgb(next((folder / "query").iterdir()).read_bytes())
    assert image.shape == (64, 32, 3) and image.std() > 5
    with pytest.raises(UserError, match="name a new folder"):
        generator.export_market(SMALL, folder, progress=False)


def test_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(specs, processes, progress):  # type: ignore[no-untyped-def]
        yield from (crops.render_crop(spec) for spec in specs[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "render_parallel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generator.export_market(SMALL, tmp_path / "market", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_export_to_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "market").write_text("a file")
    with pytest.raises(UserError, match="market exists already"):
        generator.export_market(SMALL, tmp_path / "market", progress=False)
    with pytest.raises(UserError, match="cannot be written"):
        generator.export_market(SMALL, tmp_path / "market" / "inside", progress=False)


def test_workers_end_when_their_parent_is_killed() -> None:
    worker = parallel._start_worker()
    assert worker.stdin is not None
    # A killed parent closes its pipes; nothing else tells the worker.
    worker.stdin.close()
    assert worker.wait(timeout=60) == 0


def test_synthesis_does_not_import_tensorflow() -> None:
    code = "import sys, san_tf.synthesis.generator; sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ, PYTHONPATH=str(root)))


WORLD = [spec for split in generator.REID_SPLITS for spec in generator.synthetic_reid_index("world", split)]


def test_the_world_has_many_cameras_and_tests_on_others() -> None:
    train = [spec for spec in WORLD if spec.split == "train"]
    test = [spec for spec in WORLD if spec.split != "train"]
    assert len(train) == 60_000 and len({spec.pid for spec in train}) == 6_000
    assert {spec.camid for spec in train} <= set(range(100_000))
    assert {spec.camid for spec in test} == set(range(100_000, 100_024))
    # No camera sees a person twice, and few see more than one person.
    assert len({(spec.pid, spec.camid) for spec in train}) == 60_000
    assert max(Counter(spec.camid for spec in train).values()) < 10
    assert max(Counter(spec.filename for spec in WORLD).values()) == 1
    seen: dict[int, set[int]] = {}
    for spec in test:
        if spec.split == "gallery":
            seen.setdefault(spec.pid, set()).add(spec.camid)
    assert all(seen[spec.pid] - {spec.camid} for spec in test if spec.split == "query")


def test_groups_of_three_share_an_outfit_and_all_pictures_of_a_person_agree() -> None:
    models: dict[int, set[int | None]] = {}
    for spec in WORLD:
        models.setdefault(spec.identity, set()).add(spec.model)
    assert all(len(model) == 1 for model in models.values())
    assert models[1] == {None} and models[2] == models[3] == {1} and models[4] == {None}
    # Test people copy test people, and junk wears what its person wears.
    assert models[6001] == {None} and models[6002] == models[6003] == {6001}
    assert any(spec.pid == -1 and spec.model is not None for spec in WORLD)
    assert all(spec.model is None for spec in WORLD if spec.pid == 0)
    texture = generator.identity_texture("world_smoke", 2)
    spec = next(s for s in generator.synthetic_reid_index("world_smoke", "train") if s.pid == 2)
    np.testing.assert_array_equal(texture, clothes_texture(spec.wearer))
    assert np.abs(texture.astype(int) - generator.identity_texture("world_smoke", 1)).mean() > 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cameras": 1}, "two or more cameras"),
        ({"test_cameras": 1}, "two or more in `test_cameras`"),
        ({"test_cameras": -3}, "test_cameras=-3"),
        ({"appearances": 1.0}, "appearances=1.0"),
        ({"lookalikes": 0}, "lookalikes=0"),
        ({"train_images": 5}, r"at least 6 in `train_images`.*train_images=5"),
        ({"queries": 2}, r"3 to 18 in `queries`.*queries=2"),
        ({"queries": 19, "gallery_images": 30}, r"3 to 18 in `queries`"),
        ({"gallery_images": 6}, r"at least 7 in `gallery_images`"),
    ],
)
def test_plans_that_cannot_be_met_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [8, 9, 40])
def test_few_pictures_a_person_are_by_few_cameras(images: int) -> None:
    specs = generator.synthetic_reid_index(replace(SMALL, train_images=images, appearances=6.0), "train")
    assert len(specs) == images and len({spec.pid for spec in specs}) == 3
    pairs = Counter((spec.pid, spec.camid) for spec in specs)
    assert min(Counter(pid for pid, _ in pairs).values()) >= 2


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_varieties_are_probabilities(value: float) -> None:
    with pytest.raises(UserError, match=r"Variety\.covers is a probability, 0 to 1"):
        Variety(covers=value)
    with pytest.raises(UserError, match=r"passers_by must lie in 1\.\.100000"):
        Variety(passers_by=0)
