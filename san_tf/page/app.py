"""Web application of the page: static files, and an API in JSON."""

from __future__ import annotations

import csv
import io
import mimetypes
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from starlette.exceptions import HTTPException

from san_tf.command_line import printable
from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.page.api import (
    BusyError,
    GalleryApi,
    Lanes,
    Metrics,
    StrictRoute,
    TakenError,
    Turns,
    add_api,
    as_bytes,
    as_text,
    entry_facts,
    json_answer,
    refuse_overlooked,
    time_of,
    written_time,
)
from san_tf.page.guard import (
    ANSWERS,
    ASSETS,
    DOCS,
    HELD_BYTES,
    METRICS,
    PATIENCE,
    SCOPE,
    UPLOADS,
    Access,
    Guard,
    Patience,
)  # fmt: skip
from san_tf.page.questions import AnswerUndone, Listing, NewAnswer, Pairs, RefusedError, Search
from san_tf.page.service import Found, GoneError, PageService
from san_tf.resources import core_count
from san_tf.retrieval.image_files import NoPictureError
from san_tf.retrieval.search_command import Verdict, usual_prior
from san_tf.visualization import style

if TYPE_CHECKING:
    from san_tf.page.answers import SamePerson

_COLUMNS = ("rank", "key", "score", "camera", "time", "pid", "tags", "right")
_FORMULAS = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def is_right(query: int | None, hit: int | None) -> bool | None:
    """Return whether a hit shows the query's identity; None where unknown.

    Identities are those of Market-1501: 0 is a distractor, -1 is junk.

    Example:
        >>> is_right(7, 7), is_right(7, 0), is_right(7, -1), is_right(None, 7)
        (True, False, None, None)
    """
    if query is None or hit is None or query < 1 or hit < 0:
        return None
    return query == hit


def verdict_on(
    service: PageService, wanted: Search, found: Found, calibration: Calibration | None
) -> Verdict:
    """Return what the hits of a search are worth, as `san-tf search` tells it.

    Args:
        service: the gallery.
        wanted: the search.
        found: its hits.
        calibration: of the encoder; None for no probabilities.
    """
    quality = service.quality(wanted)
    # Scores are cosines, which tell no other distances.
    if calibration is None or not (calibration.metric == "cosine" or calibration.normalized):
        return Verdict(quality, None)
    scores = np.array([hit.score for hit in found.hits])
    return Verdict(quality, calibration.of_scores(scores, usual_prior(len(service.gallery))))


def answer_facts(found: Found, verdict: Verdict | None = None) -> dict[str, Any]:
    """Return a search result as JSON values for the page; without a verdict nothing is probable."""
    chances = None if verdict is None else verdict.probabilities
    return {
        "nobody": None if verdict is None else verdict.nobody,
        "problem": (verdict.quality.problem or None) if verdict else None,
        "query": None if found.query is None else entry_facts(found.query),
        "pid": found.pid,
        "seconds": round(found.seconds, 4),
        "hits": [
            {
                "rank": rank,
                **entry_facts(hit.entry),
                "score": round(hit.score, 6),
                "probability": None if chances is None else float(f"{chances[rank - 1]:.6g}"),
                "right": is_right(found.pid, hit.entry.pid),
            }
            for rank, hit in enumerate(found.hits, 1)
        ],
    }


def answer_csv(found: Found, name_camera: Callable[[int], str] = str) -> str:
    """Return a search result as a CSV table.

    Keys and tags that a spreadsheet would read as a formula get an apostrophe in front, which marks text.
    `answer_facts` leaves them unchanged.
    """
    target = io.StringIO()
    rows = csv.writer(target, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for rank, hit in enumerate(found.hits, 1):
        entry, right = hit.entry, is_right(found.pid, hit.entry.pid)
        time = time_of(entry)
        rows.writerow(
            [
                rank,
                _as_text(entry.key),
                f"{hit.score:.6f}",
                "" if entry.camera < 0 else _as_text(name_camera(entry.camera)),
                "" if time is None else written_time(time),
                "" if entry.pid is None else entry.pid,
                _as_text(" ".join(entry.tags)),
                "" if right is None else ("yes" if right else "no"),
            ]
        )
    return target.getvalue()


def _as_text(text: str) -> str:
    # Spreadsheets skip white space and control characters, and some accept full-width signs.
    first = next((letter for letter in text if not letter.isspace() and letter.isprintable()), "")
    return f"'{text}" if first in _FORMULAS or text[:1].isspace() else text


UPLOAD_BYTES = 16 * 2**20
# Hits on an exported sheet.
_SHEET = 50
# Requests of each kind that run in parallel; others wait without a thread or memory for pixels. A search with
# re-ranking takes some 20 MB, and so does a crop. The encoder works on one picture while the next is read. A
# search is mostly Python, so more searches than cores only make each other wait for the interpreter.
_QUESTIONS, _PICTURES, _ENCODED, _CHANGES, _SHEETS = min(8, max(2, core_count())), 4, 2, 1, 1
_WAITING, _WAITING_SHEETS = 256, 4
_PAGE = "index.html"


def build_app(
    service: PageService,
    names: Sequence[str] = (),
    addresses: bool = False,
    upload_bytes: int = UPLOAD_BYTES,
    patience: Patience = PATIENCE,
    held_bytes: int = HELD_BYTES,
    access: Access | None = None,
    calibration: Calibration | None = None,
    asking: SamePerson | None = None,
) -> Guard:
    """Make the ASGI application.

    Args:
        service: the gallery and its encoder.
        names: see `Guard`.
        addresses: see `Guard`.
        upload_bytes: largest size of an uploaded picture.
        patience: see `Guard`.
        held_bytes: see `Guard`.
        access: who may ask for what; None needs no token, and allows no changes.
        calibration: of the encoder; None for no probabilities.
        asking: the mode "Same person?"; None for a page without it.

    Example:
        >>> application = build_app(PageService(gallery, network, "people"))
    """
    # FastAPI's documentation pages would load scripts from other sites.
    # Behind a proxy with TLS, a redirect to the path without its last slash would lead to plain HTTP.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    access = access or Access()
    lanes = Lanes(
        Turns(_QUESTIONS, _WAITING), Turns(_PICTURES), Turns(_ENCODED, _WAITING), Turns(_CHANGES, _WAITING)
    )
    _add_page(app)

    def answer(wanted: Search) -> dict[str, Any]:
        found = service.search(wanted)
        return answer_facts(found, verdict_on(service, wanted, found, calibration))

    # Its paths refuse what they would overlook.
    private = APIRouter(route_class=StrictRoute, dependencies=[Depends(_nothing_is_overlooked)])
    _add_questions(private, service, upload_bytes, lanes, answer, asking)
    _add_exports(private, service, lanes, answer)
    if asking is not None:
        _add_asking(private, asking, lanes)
        service.after_deletion = asking.forget
    app.include_router(private)
    api = GalleryApi(service, calibration, upload_bytes)
    paths = add_api(app, api, service, lanes, access.changes)
    metrics = Metrics(api.count, [*paths, "/", *(path for path in _paths(app) if path.startswith("/api/"))])

    @app.get(METRICS)
    async def measured(request: Request) -> Response:
        text = await lanes.questions.take(request, metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    refusals = (
        (RefusedError, 400), (GoneError, 404), (NoPictureError, 404), (TakenError, 409), (BusyError, 503),
    )  # fmt: skip
    for kind, status in refusals:
        app.exception_handler(kind)(_sentence(status))
    app.exception_handler(UserError)(_for_the_terminal)
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_unknown)
    app.exception_handler(Exception)(_unexpected)
    return Guard(
        app, names, addresses, upload_bytes, patience, held_bytes, access=access, observe=metrics.observe
    )


def _paths(app: FastAPI) -> list[str]:
    return [path for route in app.routes if isinstance(path := getattr(route, "path", None), str)]


def page_files() -> dict[str, bytes]:
    """Return the files of the page by name."""
    folder = resources.files("san_tf.page") / "assets"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _add_page(app: FastAPI) -> None:
    # Read once: a request names a file in this table, never a path.
    files = page_files()

    @app.get("/")
    async def page() -> Response:
        return Response(files[_PAGE], media_type="text/html; charset=utf-8")

    @app.get(f"{ASSETS}{{name}}")
    async def asset(name: str) -> Response:
        if name not in files or name == _PAGE:
            raise GoneError("There is no such file.")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(files[name], media_type=kind)


Answer = Callable[[Search], dict[str, Any]]


async def _nothing_is_overlooked(request: Request) -> None:
    await refuse_overlooked(request, [field.alias for field in request.scope["route"].dependant.query_params])


def _add_questions(
    app: APIRouter,
    service: PageService,
    upload_bytes: int,
    lanes: Lanes,
    answer: Answer,
    asking: SamePerson | None,
) -> None:
    questions, pictures, encoded, _ = lanes

    @app.get("/api/gallery")
    async def gallery(request: Request) -> Response:
        facts = {
            **await questions.take(request, service.facts),
            "upload_bytes": upload_bytes,
            "answers": None,
        }
        if (
            asking is not None
            and "write" in SCOPE.get()
            and await questions.take(request, lambda: asking.useful)
        ):
            facts["answers"] = await questions.take(request, asking.facts)
        return json_answer(facts)

    @app.post("/api/entries")
    async def entries(request: Request, wanted: Listing) -> Response:
        found = await questions.take(request, service.listing, wanted)
        return json_answer({"entries": [entry_facts(entry) for entry in found]})

    @app.post(UPLOADS)
    async def upload(request: Request) -> Response:
        content = await request.body()
        return json_answer({"upload": await encoded.take(request, service.upload, content)})

    @app.post("/api/search")
    async def search(request: Request, wanted: Search) -> Response:
        return json_answer(await questions.take(request, answer, wanted))

    @app.get("/api/picture")
    async def picture(request: Request, key: str = Query(max_length=4096)) -> Response:
        content, kind = await pictures.take(request, service.picture, key)
        return Response(content, media_type=kind)

    @app.get("/api/texture")
    async def texture(request: Request, key: str = Query(max_length=4096)) -> Response:
        return Response(await encoded.take(request, service.texture, key), media_type="image/png")

    @app.get("/api/upload-texture")
    async def upload_texture(request: Request, upload: str = Query(max_length=4096)) -> Response:
        return Response(await encoded.take(request, service.upload_texture, upload), media_type="image/png")


def _add_asking(app: APIRouter, asking: SamePerson, lanes: Lanes) -> None:
    # Comparing all crops takes a core for seconds, once.
    chosen = Turns(1, _WAITING_SHEETS)

    @app.post("/api/pairs")
    async def pairs(request: Request, wanted: Pairs) -> Response:
        return json_answer(await chosen.take(request, asking.pairs, wanted.count))

    @app.post(ANSWERS)
    async def answer(request: Request, given: NewAnswer) -> Response:
        return json_answer(await lanes.changes.take(request, asking.answer, given))

    @app.post(f"{ANSWERS}/undo")
    async def undo(request: Request, given: AnswerUndone) -> Response:
        return json_answer(await lanes.changes.take(request, asking.undo, given))


def _add_exports(app: APIRouter, service: PageService, lanes: Lanes, answer: Answer) -> None:
    questions, sheets = lanes.questions, Turns(_SHEETS, _WAITING_SHEETS)

    @app.post("/api/export/json")
    async def asjson_answer(request: Request, wanted: Search) -> Response:
        found = await questions.take(request, answer, wanted)
        facts = {**wanted.model_dump(exclude={"upload"}), **found, "model": service.model}
        return _file(as_text(facts, indent=1), "application/json", "ranked.json")

    @app.post("/api/export/csv")
    async def as_csv(request: Request, wanted: Search) -> Response:
        found = await questions.take(request, service.search, wanted)
        return _file(answer_csv(found, service.camera_name), "text/csv; charset=utf-8", "ranked.csv")

    @app.post("/api/export/png")
    async def as_picture(request: Request, wanted: Search, textures: bool = False) -> Response:
        content = await sheets.take(request, _sheet, service, wanted, textures)
        return _file(content, "image/png", "ranked.png")


def _sheet(service: PageService, wanted: Search, textures: bool) -> bytes:
    facts, found = service.facts(), service.search(wanted)
    textures = textures and facts["paints"]

    def painted(paint: Callable[[str], bytes], name: str) -> Any:
        return service.decoded(paint, name) if textures else None

    query = Cell(
        service.pixels(wanted),
        painted(service.texture, wanted.key)
        if wanted.key
        else painted(service.upload_texture, wanted.upload or ""),
        ("query", "" if found.pid is None else f"identity {found.pid}"),
    )
    cells = []
    for rank, hit in enumerate(found.hits[:_SHEET], 1):
        entry = hit.entry
        where = "" if entry.camera < 0 else f"camera {service.camera_name(entry.camera)}"
        # Date and time on two lines, because a picture is narrow.
        time = time_of(entry)
        when = () if time is None else written_time(time).partition(".")[0].rstrip("Z").split("T")
        lines = (f"{rank}   {hit.score:.3f}", where, *when)
        right = is_right(found.pid, entry.pid)
        cells.append(Cell(service.entry_pixels(entry.key), painted(service.texture, entry.key), lines, right))
    return as_png(ranked_sheet(query, cells, _title(facts, wanted, len(cells))))


def _title(facts: dict[str, Any], wanted: Search, count: int) -> str:
    reranked = f", the first {wanted.rerank} re-ranked" if wanted.rerank else ""
    return f"{facts['name']}: the {count} nearest by {facts['model']}{reranked}"


def _file(content: str | bytes, kind: str, name: str) -> Response:
    if isinstance(content, str):
        content = as_bytes(content)
    return Response(
        content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def _sentence(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handler(_: Request, error: Exception) -> Response:
        return _told(str(error), status)

    return handler


def _told(sentence: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer({"error": sentence}, status, headers)


async def _for_the_terminal(_: Request, error: Exception) -> Response:
    # The error names paths of this machine, which the page must not show.
    print(printable(f"Error: {error}"), file=sys.stderr, flush=True)
    return _told("The gallery cannot answer now; the terminal of the page says why.", 503)


async def _invalid(_: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = ".".join(str(part) for part in first.get("loc", ())[1:])[:80]
    what = str(first.get("msg", "it is malformed")).removeprefix("Value error, ")[:200]
    if first.get("type") == "json_invalid":
        where, what = "its JSON", str(first.get("ctx", {}).get("error", what))[:200]
    return _told(f"The request is not valid ({where or 'as a whole'}: {what}).", 422)


async def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    sentence = "The body cannot be read; send JSON in UTF-8, with numbers of a usual length."
    if status == 404:
        sentence = "There is nothing at this address."
    if status == 405:
        sentence = f"This address does not take {request.method[:20]!a}; {DOCS} says what it takes."
    return _told(sentence, status, error.headers if isinstance(error, HTTPException) else None)


async def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, and the server prints it.
    sentence = "Something went wrong in the program behind this page; its terminal says what."
    return _told(sentence, 500)


_CELL, _TALL, _GAP, _LINE, _ROW = 0.8, 1.6, 0.14, 0.15, 10
_FRAME = 3  # pixels


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet.

    Attributes:
        picture: `(H, W, 3)` uint8 RGB, or None.
        texture: `(T, T, 3)` uint8 RGB, or None.
        caption: short lines below the picture.
        right: True for a green frame, False for a red one, None for a neutral one.
    """

    picture: np.ndarray | None
    texture: np.ndarray | None
    caption: tuple[str, ...]
    right: bool | None = None


def ranked_sheet(query: Cell, hits: Sequence[Cell], title: str) -> np.ndarray:
    """Draw a query and its hits, best first, ten in a row.

    Matplotlib draws only the texts, and the pictures are copied in: axes for a hundred pictures would take
    ten seconds.

    Args:
        query: the query.
        hits: the hits; may be empty.
        title: text above the figure.

    Returns:
        `(H, W, 3)` uint8 RGB.

    Example:
        >>> crop = np.zeros((128, 64, 3), np.uint8)
        >>> sheet = ranked_sheet(Cell(crop, None, ("query",)), [Cell(crop, None, ("1", "0.93"))], "People")
    """
    cells = [query, *hits]
    textures = any(cell.texture is not None for cell in cells)
    lines = max(len(cell.caption) for cell in cells)
    pitch = _TALL + (_CELL + 0.06 if textures else 0) + lines * _LINE + 0.3
    head, first = style.title_height(title) + 0.1, 0.2 + _CELL + 0.4
    rows = max(1, -(-len(hits) // _ROW))
    columns = min(len(hits), _ROW) if hits else 1
    marked = any(cell.right is not None for cell in hits)
    width = max(first + columns * (_CELL + _GAP) + 0.1, 6.0)
    across, down = _dots(width), _dots(head + rows * pitch + (0.3 if marked else 0.05))
    figure = style.new_figure(across / style.DPI, down / style.DPI)
    room = int((width - 0.3) / (0.6 / 72 * style.TITLE))
    title = style.shortened(style.readable(title), room)
    style.write(figure, title, 0.2, 0.16, style.TITLE, weight="bold", vertical="top")
    places = [(0.2, head)]
    for place in range(len(hits)):
        places.append((first + place % _ROW * (_CELL + _GAP), head + place // _ROW * pitch))
    for cell, (left, top) in zip(cells, places, strict=True):
        _write_caption(figure, cell, left, top)
    if marked:
        bottom = head + rows * pitch + 0.08
        for text, color, left in (
            ("same person", style.RIGHT, first),
            ("another person", style.WRONG, first + 1.1),
        ):
            style.write(figure, "■", left, bottom, style.SMALL, color)
            style.write(figure, text, left + 0.13, bottom, style.SMALL, style.MUTED)
    drawn = FigureCanvasAgg(figure)
    drawn.draw()
    sheet = np.array(drawn.buffer_rgba())[..., :3].copy()
    frames = {True: style.RIGHT, False: style.WRONG, None: style.RULE}
    for cell, (left, top) in zip(cells, places, strict=True):
        if cell.picture is not None:
            frame = style.INK if cell is query else frames[cell.right]
            _put(sheet, cell.picture, left, top, _TALL, frame)
        if cell.texture is not None:
            _put(sheet, cell.texture, left, top + _TALL + 0.06, _CELL, style.RULE)
    return sheet


def as_png(sheet: np.ndarray) -> bytes:
    """Return the sheet as a PNG file."""
    target = io.BytesIO()
    Image.fromarray(sheet).save(target, "PNG", compress_level=3)
    return target.getvalue()


def _dots(inches: float) -> int:
    return round(inches * style.DPI)


def _write_caption(figure: Figure, cell: Cell, left: float, top: float) -> None:
    if cell.picture is None:
        style.write(figure, "no picture", left + _CELL / 2, top + _TALL / 2, 6.0, style.MUTED, "center")
    bottom = top + _TALL + (0 if cell.texture is None else _CELL + 0.06)
    for number, line in enumerate(cell.caption):
        ink = style.INK if number == 0 else style.MUTED
        at = bottom + 0.12 + number * _LINE
        style.caption(figure, line, left + _CELL / 2, at, _CELL + _GAP, color=ink)


def _put(sheet: np.ndarray, picture: np.ndarray, left: float, top: float, tall: float, frame: str) -> None:
    """Copy a picture into a box as wide as a cell, whole and undistorted, with a frame."""
    wide, high = _dots(_CELL), _dots(tall)
    scale = min(wide / picture.shape[1], high / picture.shape[0])
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    shown = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    x, y = _dots(left) + (wide - size[0]) // 2, _dots(top) + (high - size[1]) // 2
    edge = 1 if frame == style.RULE else _FRAME
    color = np.rint(255 * np.array(to_rgb(frame))).astype(np.uint8)
    sheet[y - edge : y + size[1] + edge, x - edge : x + size[0] + edge] = color
    sheet[y : y + size[1], x : x + size[0]] = shown
