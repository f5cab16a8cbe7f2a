"""A web page for a gallery: `san-tf serve-ui --gallery people.gallery --model saved_models/market/1`.

Drop a crop, or choose one of the gallery, and see the nearest entries with camera, time and score. Below each
is the texture that the encoder's decoder paints: what the network sees. `san-tf serve-ui --demo` renders
a gallery of people who do not exist, to try the page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.start import import_tensorflow
from san_tf.trusted import SHIPPED_MODELS

if TYPE_CHECKING:
    from san_tf.page.service import PageService

PORT = 8642
_ENCODER = SHIPPED_MODELS / "synthetic"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="san-tf serve-ui", description=__doc__, allow_abbrev=False)
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
    parser.add_argument("--demo", action="store_true", help="render a demo gallery to try the page")
    parser.add_argument(
        "--host", metavar="ADDRESS", help="address to listen on for other machines; the page has no login"
    )
    parser.add_argument("--port", type=int, metavar="N", default=PORT, help="port; 0 for a free one")
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
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see `--help`."""
    run_as_command(lambda: _run(_parse(argv)))


def _run(options: argparse.Namespace) -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError("The page needs FastAPI and uvicorn: pip install 'san-tf[page]'.") from error
    from san_tf.page.server import LOOPBACK, listen

    host = options.host or LOOPBACK
    # Listen first: a port in use is reported before TensorFlow starts, which takes seconds.
    with contextlib.closing(listen(host, options.port)) as server, _service(options) as service:
        browser = options.demo if options.browser is None else options.browser
        _serve(service, server, host, browser)
    print("\nThe page is closed.")


@contextlib.contextmanager
def _service(options: argparse.Namespace) -> Iterator[PageService]:
    """Open the gallery and its encoder."""
    with contextlib.ExitStack() as stack:
        model, name = options.model, options.gallery
        if not options.demo:
            from san_tf.retrieval.opening import open_to_search

            opened = open_to_search(name, model, options.images)
            gallery, model = stack.enter_context(opened.gallery), opened.model
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
            print(printable(f"Crops to drop on the page: {folder / 'to_drop'}"), flush=True)
        service = PageService(gallery, network, Path(name).name or name)
        if options.model and not options.demo:
            from san_tf.trusted import remember_export

            remember_export(network.encoder.folder, network.fingerprint)
        service.warm_up()
        yield service


def _serve(service: PageService, server: socket.socket, host: str, browser: bool) -> None:
    from san_tf.page.app import build_app
    from san_tf.page.server import address_of, is_open_to_others, own_names, serve

    address, others = address_of(server, host), is_open_to_others(server)

    def ready() -> None:
        facts = service.facts()
        what = f"{facts['entries']:,} entries, encoder {facts['model']}"
        print(printable(f"{address}  ·  {what}  ·  stop with Ctrl-C"), flush=True)
        if others:
            print(
                "Warning: the page has no login; anyone who reaches this address sees the gallery.",
                file=sys.stderr,
                flush=True,
            )
        if browser and (
            sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        ):
            webbrowser.open(address)

    serve(build_app(service, own_names(server, host), others), server, ready)
