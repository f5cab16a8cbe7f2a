"""The command: its mistakes in one sentence, its port, its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from plain_people import StandIn, make_gallery

from san_tf.errors import UserError
from san_tf.page.page_command import main
from san_tf.page.server import address_of, is_open_to_others, listen, own_names
from san_tf.page.service import PageService
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.retrieval.opening import open_gallery

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "saved_models" / "synthetic" / "1"


def _mistake(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "--gallery is missing; name a gallery, or try the page with --demo"),
        (["--gallery", "x", "--demo"], "leave out --gallery, or --demo"),
        (["--demo", "--port", "70000"], "--port is 70000; give a number from 1 to 65535"),
        (["--galery", "x"], "did you mean --gallery?"),
        (["--demo", "--port", "0", "--host", "no.such.host.invalid"], "is not an address of this machine"),
        (["--demo", "--port", "0", "--host", "203.0.113.1"], "is not an address of this machine"),
        (["--gallery", "nowhere", "--model", "m", "--port", "0"], "There is no gallery nowhere"),
    ],
)
def test_mistakes(capsys, tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in _mistake(capsys, *argv)


def test_without_fastapi(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)  # what an import meets where it is not installed
    said = _mistake(capsys, "--demo")
    assert "The page needs FastAPI, uvicorn and prometheus-client: pip install 'san-tf[page]'" in said


def test_a_port_in_use(capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = _mistake(capsys, "--demo", "--port", str(port))
    assert f"Port {port} is in use; stop its program, or give another" in said


def test_an_encoder_of_another_size(capsys, tmp_path):
    with open_gallery(tmp_path / "people", create=GalleryInfo(7, "other/1")) as gallery:
        gallery.add(np.eye(7)[:1], [Entry("a")])
    said = _mistake(capsys, "--gallery", str(tmp_path / "people"), "--model", str(MODEL), "--port", "0")
    assert "embeddings of 7 numbers by other/1, and synthetic/1 gives 512" in said


def test_a_model_that_is_none(capsys, tmp_path):
    with open_gallery(tmp_path / "people", create=GalleryInfo(7, "gone/1")) as gallery:
        gallery.add(np.eye(7)[:1], [Entry("a")])
    said = _mistake(capsys, "--gallery", str(tmp_path / "people"), "--port", "0")
    assert "(gone/1) is not there; name it with --model" in said
    said = _mistake(capsys, "--gallery", str(tmp_path / "people"), "--model", str(tmp_path), "--port", "0")
    assert "holds no version" in said


def test_an_encoder_of_the_same_size_that_is_another(folder):
    network = StandIn()
    network.fingerprint = "another"
    gallery = make_gallery(folder)
    gallery.info = GalleryInfo(6, "stand-in/1", "plain", gallery.info.images)
    PageService(gallery, StandIn(), "people")
    with pytest.raises(UserError, match="is another encoder"):
        PageService(gallery, network, "people")


def test_without_a_host_it_listens_to_this_machine_alone():
    with listen("127.0.0.1", 0) as server:
        assert server.getsockname()[0] == "127.0.0.1" and not is_open_to_others(server)
        assert address_of(server, "127.0.0.1") == f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert own_names(server, "127.0.0.1") == ["127.0.0.1"]
    with listen("0.0.0.0", 0) as server:
        assert is_open_to_others(server)
        assert address_of(server, "0.0.0.0").startswith(f"http://{socket.gethostname()}:")
        assert own_names(server, "0.0.0.0")[1] == socket.gethostname()


def test_help_is_quick_and_light():
    code = (
        "import sys; from san_tf.__main__ import main\n"
        "try: main(['serve-ui', '--help'])\n"
        "finally: print([name for name in ('tensorflow', 'fastapi', 'uvicorn') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0 and answer.stdout.endswith("[]\n"), answer.stderr
    for flag in ("--gallery", "--model", "--demo", "--host", "--port"):
        assert flag in answer.stdout


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(ending):
    code = """
from san_tf.page.guard import Guard
from san_tf.page.server import address_of, listen, serve

async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})

server = listen("127.0.0.1", 0)
address = address_of(server, "127.0.0.1")
serve(Guard(application, [], False, 1), server, lambda: print(address, flush=True))
print("closed", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    address = process.stdout.readline().strip()
    assert urllib.request.urlopen(address, timeout=10).read() == b"here"
    process.send_signal(ending)
    said, complaints = process.communicate(timeout=20)
    assert complaints == ""
    assert (process.returncode, said) == (0, "closed\n")


@pytest.mark.slow
def test_the_demo_from_nothing_to_the_page(tmp_path):
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "san_tf", "serve-ui", "--demo", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("http://"):
            break
    address = re.match(r"http://\S+", lines[-1])[0]
    print(f"the page was there after {time.monotonic() - began:.0f} s")
    assert b"<title>" in urllib.request.urlopen(address, timeout=10).read()
    assert "100 entries, encoder synthetic/1" in lines[-1]
    dropped = next(tmp_path.glob("san_tf_demo_*/to_drop/*.jpg"))
    question = urllib.request.Request(
        f"{address}api/uploads", dropped.read_bytes(), {"content-type": "application/octet-stream"}
    )
    assert b"upload" in urllib.request.urlopen(question, timeout=30).read()
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=30)
    assert process.returncode == 0 and said.strip() == "The page is closed." and "Traceback" not in complaints
    # The rendered people are gone.
    assert list(tmp_path.iterdir()) == []
