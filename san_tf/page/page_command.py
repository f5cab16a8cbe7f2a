"""A web page and an API for a gallery: `san-tf serve-ui --gallery people.gallery --model EXPORT`.

Drop a crop, or choose one of the gallery, and see the nearest entries with camera, time and score. Below each
is the texture that the encoder's decoder paints: what the network sees. `san-tf serve-ui --demo` renders
a gallery of people who do not exist, to try the page. Other programs ask `/api/v1`, described at
`/api/v1/docs`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.start import import_tensorflow
from san_tf.trusted import SHIPPED_MODELS

if TYPE_CHECKING:
    from san_tf.evaluation.calibration import Calibration
    from san_tf.page.answers import SamePerson
    from san_tf.page.guard import Access, Tokens
    from san_tf.page.service import PageService
    from san_tf.retrieval.gallery import Gallery

PORT = 8642
TOKENS = "SAN_TF_TOKENS"
_ENCODER = SHIPPED_MODELS / "synthetic"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf serve-ui", description=__doc__)
    parser.add_argument(
        "--gallery", metavar="DB", help="a gallery's path or address; see san-tf gallery --help"
    )
    parser.add_argument(
        "--model",
        metavar="EXPORT",
        help="the gallery's encoder, if it has moved or is new here; it is a program, so you must trust it",
    )
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="the folder of the gallery's photographs, if it has moved or is new here",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a file of `san-tf calibrate`, which turns scores into probabilities; default: the export's",
    )
    parser.add_argument("--demo", action="store_true", help="render a demo gallery to try the page")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="address to listen on for other machines; it needs --tokens"
    )
    parser.add_argument("--port", type=int, metavar="N", default=PORT, help="port; 0 for a free one")
    parser.add_argument(
        "--tokens",
        metavar="FILE",
        help="who may ask for what: a line per token with a name, scopes (read,write,delete,metrics) and the "
        f"token; or the same lines in the environment variable {TOKENS}",
    )
    parser.add_argument(
        "--writable",
        action="store_true",
        help="let programs on this machine add and delete entries; with tokens, their scopes say who may",
    )
    parser.add_argument(
        "--answers",
        metavar="FILE",
        help="ask 'same person?' about pairs of entries, and keep the answers in this .csv, which `san-tf "
        "adapt --answers` and `san-tf calibrate --pairs` read; with tokens, the scope write may answer",
    )
    parser.add_argument(
        "--public_name",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names under which a proxy with TLS is reached, such as people.example.org",
    )
    parser.add_argument(
        "--rate", type=float, default=50.0, metavar="N",
        help="most requests to the API a second, for each token; 0 for no limit (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--max_upload", type=int, default=16, metavar="MB", help="largest picture (default: %(default)s)"
    )
    parser.add_argument(
        "--browser",
        action=argparse.BooleanOptionalAction,
        help="open the page in this machine's browser; the demo does so by default",
    )
    options: argparse.Namespace = parser.parse_args(argv)
    if options.demo and options.gallery:
        raise UserError("--demo renders its own gallery; leave out --gallery, or --demo.")
    if not options.demo and not options.gallery:
        raise UserError("--gallery is missing; name a gallery, or try the page with --demo.")
    if options.demo and not options.model:
        if not _ENCODER.is_dir():
            raise UserError(
                f"The demo's encoder is missing ({_ENCODER}); install the package again, or give --model."
            )
        options.model = str(_ENCODER)
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}; give a number from 1 to 65535, or 0 for a free one.")
    if not 0 <= options.rate <= 1e6:
        raise UserError(f"--rate is {options.rate:g}; give requests a second, or 0 for no limit.")
    if not 1 <= options.max_upload <= 64:
        raise UserError(f"--max_upload is {options.max_upload}; give 1 to 64 MB.")
    if options.answers is not None and not options.answers.lower().endswith(".csv"):
        raise UserError(f"--answers is {options.answers[:200]!a}; name a .csv file for the answers.")
    for name in options.public_name:
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?", name):
            raise UserError(
                f"--public_name {name[:80]!a} is not the name of a machine; write it as people.example.org, "
                "without https:// and port."
            )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


def _run(options: argparse.Namespace) -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            "The page needs FastAPI, uvicorn and prometheus-client: pip install 'san-tf[page]'."
        ) from error
    from san_tf.page.guard import Access
    from san_tf.page.server import LOOPBACK, is_open_to_others, listen

    calibration = _calibration(options)
    if options.answers is not None:
        from san_tf.page.answers import AnswerFile

        AnswerFile(options.answers)  # tells a file that cannot be used
    host = options.host or LOOPBACK
    access = Access(
        _tokens(options), options.writable, tuple(options.public_name), options.rate, bool(options.answers)
    )
    # Listen first: a port in use is reported before TensorFlow starts, which takes seconds.
    with contextlib.closing(listen(host, options.port)) as server:
        if access.tokens is None and is_open_to_others(server):
            raise UserError(
                f"Without tokens, anybody who reaches {host} would see the gallery; give --tokens or "
                f"{TOKENS}, or leave --host out and put a proxy with a login before it."
            )
        with _service(options, access.changes) as service:
            browser = options.demo if options.browser is None else options.browser
            if calibration is None and (encoder := getattr(service.network, "encoder", None)):
                from san_tf.serving import read_calibration

                calibration = read_calibration(encoder.folder)
            upload_bytes = options.max_upload * 2**20
            asking = _asking(options, service)
            _serve(service, server, host, browser, access, upload_bytes, calibration, asking)
    print("\nThe page is closed.")


def _calibration(options: argparse.Namespace) -> Calibration | None:
    """Return the calibration of the command line, read before TensorFlow starts; None without one."""
    if not options.calibration:
        return None
    from san_tf.evaluation.calibration import Calibration

    return Calibration.load(options.calibration)


def _asking(options: argparse.Namespace, service: PageService) -> SamePerson | None:
    """Return the mode "Same person?"; None without a file for its answers."""
    if options.answers is None:
        return None
    from san_tf.page.answers import FEWEST_ENTRIES, SamePerson

    asking = SamePerson(service, options.answers)
    if not asking.useful:
        told = f"The page asks about people from {FEWEST_ENTRIES} entries with pictures on; add some first."
        print(printable(f"Note: {told}"), file=sys.stderr, flush=True)
    return asking


def _tokens(options: argparse.Namespace) -> Tokens | None:
    """Return the tokens of the command line or the environment; None without any."""
    from san_tf.page.guard import Tokens

    if options.tokens:
        return Tokens.from_file(options.tokens)
    # An empty variable is more likely a mistake than a wish to have no tokens.
    text = os.environ.get(TOKENS)
    return None if text is None else Tokens(text, f"the variable {TOKENS}")


@contextlib.contextmanager
def _service(options: argparse.Namespace, changes: bool) -> Iterator[PageService]:
    """Open the gallery and its encoder; `changes` says whether entries may be added or deleted."""
    with contextlib.ExitStack() as stack:
        model, name = options.model, options.gallery
        change: Callable[[], contextlib.AbstractContextManager[Gallery]] | None = None
        if not options.demo:
            from san_tf.retrieval.opening import open_to_search

            opened = open_to_search(name, model, options.images)
            gallery, model = stack.enter_context(opened.gallery), opened.model
            if changes:
                from san_tf.retrieval.opening import open_gallery

                # Opened once now, so that a volume that cannot be written to is told at once.
                open_gallery(name).close()
                change = functools.partial(open_gallery, name)
            if opened.withheld:
                print(printable(f"Note: {opened.withheld}"), file=sys.stderr, flush=True)
        import_tensorflow()
        from san_tf.page.page_encoder import ExportedNetwork
        from san_tf.page.service import PageService

        network = ExportedNetwork(model)
        if options.demo:
            from san_tf.page.demo import demo_gallery

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="san_tf_demo_")))
            gallery = stack.enter_context(demo_gallery(folder, network))
            name = "rendered people"
            if changes:
                change = functools.partial(_kept_open, gallery)
            print(printable(f"Crops to drop on the page: {folder / 'to_drop'}"), flush=True)
        service = PageService(gallery, network, Path(name).name or name, change)
        if options.model and not options.demo:
            from san_tf.trusted import remember_export

            remember_export(network.encoder.folder, network.fingerprint)
        service.warm_up()
        yield service


@contextlib.contextmanager
def _kept_open(gallery: Gallery) -> Iterator[Gallery]:
    yield gallery


def _serve(
    service: PageService,
    server: socket.socket,
    host: str,
    browser: bool,
    access: Access,
    upload_bytes: int,
    calibration: Calibration | None,
    asking: SamePerson | None,
) -> None:
    from san_tf.page.app import build_app
    from san_tf.page.server import address_of, is_open_to_others, own_names, serve

    address, others = address_of(server, host), is_open_to_others(server)

    def ready() -> None:
        facts = service.facts()
        what = f"{facts['entries']:,} entries, encoder {facts['model']}"
        print(printable(f"{address}  ·  {what}  ·  stop with Ctrl-C"), flush=True)
        if others:
            print(
                "Warning: tokens and pictures cross the network unencrypted; put a proxy with TLS before "
                "this address.",
                file=sys.stderr,
                flush=True,
            )
        if browser and (
            sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            webbrowser.open(address)

    application = build_app(
        service, own_names(server, host), others, upload_bytes, access=access, calibration=calibration,
        asking=asking,
    )  # fmt: skip
    serve(application, server, ready)
