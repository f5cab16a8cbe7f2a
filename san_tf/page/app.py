"""The page's server: files of the page, and questions and answers as JSON."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from san_tf.errors import UserError
from san_tf.page.answers import answer_csv, answer_facts, entry_facts, is_right, written_time
from san_tf.page.guard import UPLOADS, Guard
from san_tf.page.questions import Listing, Search
from san_tf.page.service import GoneError, PageService
from san_tf.page.sheet import Cell, as_png, ranked_sheet
from san_tf.retrieval.image_files import NoPictureError

UPLOAD_BYTES = 16 * 2**20
_SHEET = 50
_PAGE = "index.html"


def build_app(
    service: PageService,
    names: Sequence[str] = (),
    addresses: bool = False,
    upload_bytes: int = UPLOAD_BYTES,
) -> Guard:
    """Make the application; an ASGI server runs it.

    Args:
        service: what answers.
        names: see `Guard`.
        addresses: see `Guard`.
        upload_bytes: that a picture may have.

    Example:
        >>> application = build_app(PageService(gallery, network, "people"))
    """
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _add_page(app)
    _add_questions(app, service, upload_bytes)
    _add_exports(app, service)
    for kind, status in ((UserError, 400), (GoneError, 404), (NoPictureError, 404)):
        app.exception_handler(kind)(_sentence(status))
    app.exception_handler(RequestValidationError)(_invalid)
    app.exception_handler(HTTPException)(_unknown)
    app.exception_handler(Exception)(_unexpected)
    return Guard(app, names, addresses, upload_bytes)


def page_files() -> dict[str, bytes]:
    """The files of the page by name."""
    folder = resources.files("san_tf.page") / "assets"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _add_page(app: FastAPI) -> None:
    # Read once: what is asked for is a name in a table, never a path.
    files = page_files()

    @app.get("/")
    def page() -> Response:
        return Response(files[_PAGE], media_type="text/html; charset=utf-8")

    @app.get("/assets/{name}")
    def asset(name: str) -> Response:
        if name not in files or name == _PAGE:
            raise GoneError("There is no such file.")
        kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
        return Response(files[name], media_type=kind)


def _add_questions(app: FastAPI, service: PageService, upload_bytes: int) -> None:
    @app.get("/api/gallery")
    def gallery() -> dict[str, Any]:
        return {**service.facts(), "upload_bytes": upload_bytes}

    @app.post("/api/entries")
    def entries(wanted: Listing) -> dict[str, Any]:
        return {"entries": [entry_facts(entry) for entry in service.listing(wanted)]}

    @app.post(UPLOADS)
    async def upload(request: Request) -> dict[str, str]:
        return {"upload": await run_in_threadpool(service.upload, await request.body())}

    @app.post("/api/search")
    def search(wanted: Search) -> dict[str, Any]:
        return answer_facts(service.search(wanted))

    @app.get("/api/picture")
    def picture(key: str = Query(max_length=4096)) -> Response:
        content, kind = service.picture(key)
        return Response(content, media_type=kind)

    @app.get("/api/texture")
    def texture(key: str = Query(max_length=4096)) -> Response:
        return Response(service.texture(key), media_type="image/png")

    @app.get("/api/upload-texture")
    def upload_texture(upload: str = Query(max_length=4096)) -> Response:
        return Response(service.upload_texture(upload), media_type="image/png")


def _add_exports(app: FastAPI, service: PageService) -> None:
    @app.post("/api/export/json")
    def as_json(wanted: Search) -> Response:
        facts = {**wanted.model_dump(exclude={"upload"}), **answer_facts(service.search(wanted))}
        facts["model"] = service.facts()["model"]
        return _file(json.dumps(facts, indent=1, ensure_ascii=False), "application/json", "ranked.json")

    @app.post("/api/export/csv")
    def as_csv(wanted: Search) -> Response:
        return _file(answer_csv(service.search(wanted)), "text/csv; charset=utf-8", "ranked.csv")

    @app.post("/api/export/png")
    def as_picture(wanted: Search, textures: bool = False) -> Response:
        return _file(_sheet(service, wanted, textures), "image/png", "ranked.png")


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
        where = "" if entry.camera < 0 else f"camera {entry.camera}"
        # Day and clock below each other: a picture is narrow.
        when = () if entry.time is None else written_time(entry.time).partition(".")[0].rstrip("Z").split("T")
        lines = (f"{rank}   {hit.score:.3f}", where, *when)
        right = is_right(found.pid, entry.pid)
        cells.append(Cell(service.entry_pixels(entry.key), painted(service.texture, entry.key), lines, right))
    return as_png(ranked_sheet(query, cells, _title(facts, wanted, len(cells))))


def _title(facts: dict[str, Any], wanted: Search, count: int) -> str:
    reranked = f", the first {wanted.rerank} re-ranked" if wanted.rerank else ""
    return f"{facts['name']}: the {count} most alike by {facts['model']}{reranked}"


def _file(content: str | bytes, kind: str, name: str) -> Response:
    return Response(
        content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'}
    )


def _sentence(status: int) -> Callable[[Request, Exception], Response]:
    def handler(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return handler


def _invalid(_: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    what = str(first.get("msg", "it is malformed")).removeprefix("Value error, ")
    return JSONResponse({"error": f"The question makes no sense ({where or 'as a whole'}: {what})."}, 422)


def _unknown(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    sentence = "There is nothing here." if status in (404, 405) else "The question cannot be read."
    return JSONResponse({"error": sentence}, status)


def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises it again when this is sent, and the server prints it.
    sentence = "Something went wrong in the program behind this page; its terminal says what."
    return JSONResponse({"error": sentence}, 500)
