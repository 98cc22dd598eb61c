"""The page of a line and its JSON interface, which `/openapi.json` describes.

No path from outside is ever opened: an image comes as the content of a request, its name is text,
and files of the page are the ones that are listed here. Requests that other pages make a browser
send are refused: they name another host or origin.

Read next: `answers.py`, what it answers with; `line.py`, what it shows.
"""

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import FiniteFloat
from starlette.concurrency import run_in_threadpool

from invad_jax.errors import UserError
from invad_jax.report.content import score_range
from invad_jax.report.pictures import colour_bar
from invad_jax.report.tables import UNREADABLE, decision_word
from invad_jax.serving.answers import Detector, Kind, Seen, ShiftSoFar
from invad_jax.serving.line import Line
from invad_jax.serving.shift import MOST_RECORDS, RECENT, Record, drift
from invad_jax.version import __version__

MOST_WAITING = 16
"""Images that are read at the same time; more are asked to come back."""
_SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_ASSETS = {
    "/": ("serving", "page.html", "text/html"),
    "/serve.css": ("serving", "serve.css", "text/css"),
    "/serve.js": ("serving", "serve.js", "text/javascript"),
    "/page.css": ("report", "page.css", "text/css"),
    "/charts.js": ("report", "charts.js", "text/javascript"),
}


def create(
    line: Line,
    name: str,
    max_bytes: int,
    watching: list[str],
    hosts: frozenset[str] | None,
) -> FastAPI:
    """The application.

    Args:
      line: decides.
      name: of the detector, for the page.
      max_bytes: of an image.
      watching: names of the folders that are watched.
      hosts: names under which a browser may know this machine; None: any.
    """
    app = FastAPI(title="invad_jax", version=__version__, docs_url=None, redoc_url=None)
    _guard(app, hosts)
    _pages(app)
    waiting = asyncio.Semaphore(MOST_WAITING)

    def detector() -> Detector:
        kinds = [_kind(line, kind) for kind in line.calibrated.names]
        return Detector(
            name=name, version=__version__, kinds=kinds, watching=watching, max_bytes=max_bytes
        )

    @app.get("/api/detector")
    def get_detector() -> Detector:
        return detector()

    @app.put("/api/thresholds")
    def move_thresholds(thresholds: Annotated[dict[str, FiniteFloat], Body()]) -> Detector:
        """Decides on the images that come by other thresholds, of the kinds that are named."""
        try:
            line.move(thresholds)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        return detector()

    @app.post("/api/images", status_code=201)
    async def judge(request: Request, name: Annotated[str, Query(max_length=1000)] = "") -> Seen:
        """Decides on the image that is the body: `curl --data-binary @part.png -H
        content-type:image/png`. One that cannot be read is a decision too, `unreadable`."""
        if waiting.locked():
            raise HTTPException(503, "busy", {"Retry-After": "1"})
        async with waiting:
            content = await _body(request, max_bytes)
            record = await run_in_threadpool(line.take, content, name or "without a name")
        return Seen.model_validate(record)

    @app.get("/api/shift")
    def get_shift(after: int = 0, at_most: Annotated[int, Query(ge=0, le=500)] = 100) -> ShiftSoFar:
        """The shift so far, with the newest images whose id is above `after`."""
        shift = line.shift
        recent = shift.newer(0, RECENT * 10 * len(line.normals))
        return ShiftSoFar(
            started=shift.started,
            normal=shift.count[decision_word(False)],
            anomalous=shift.count[decision_word(True)],
            unreadable=shift.count[UNREADABLE],
            drift=drift(recent, line.normals),
            trouble=line.trouble,
            images=[Seen.model_validate(one) for one in shift.newer(after, at_most)],
        )

    @app.post("/api/shift", status_code=201)
    def begin_shift() -> ShiftSoFar:
        """Begins a new shift: counts anew."""
        line.begin_shift()
        return get_shift()

    @app.get("/api/shift.csv", response_class=Response)
    def shift_as_table() -> Response:
        """Every image of the shift as a table."""
        table = _table(line.shift.newer(0, MOST_RECORDS))
        named = {"Content-Disposition": 'attachment; filename="shift.csv"'}
        return Response(table, media_type="text/csv; charset=utf-8", headers=named)

    @app.get("/api/images/{number}/photograph", response_class=Response)
    def photograph(number: int) -> Response:
        """JPEG of at most 1280 pixels a side; of the last 200 images."""
        pictures = line.shift.pictures.get(number)
        if not pictures:
            raise HTTPException(404, "no picture is kept of it")
        return Response(pictures.photograph, media_type="image/jpeg")

    @app.get("/api/images/{number}/heat", response_class=Response)
    def heat(number: int) -> Response:
        """PNG to be stretched over the photograph; 204 where there is no heat."""
        pictures = line.shift.pictures.get(number)
        if not pictures:
            raise HTTPException(404, "no picture is kept of it")
        if not pictures.heat:
            return Response(status_code=204)
        return Response(pictures.heat, media_type="image/png")

    return app


def _guard(app: FastAPI, hosts: frozenset[str] | None) -> None:
    @app.middleware("http")
    async def guarded(
        request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        known = hosts is None or _part(f"//{host}", "hostname") in hosts
        if not known or (origin is not None and _part(origin, "netloc") != host):
            return Response("another host or origin\n", 403)
        response = await answer(request)
        response.headers.update(_SECURITY)
        return response

    @app.exception_handler(RequestValidationError)
    async def refused(request: Request, error: RequestValidationError) -> Response:
        """What is wrong, without what was sent: NaN is no JSON."""
        told = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
        return JSONResponse({"detail": told}, 422)


def _part(address: str, name: str) -> str | None:
    try:
        return getattr(urlsplit(address), name)
    except ValueError:  # such as of brackets that do not close
        return None


def _pages(app: FastAPI) -> None:
    for path, (room, name, kind) in _ASSETS.items():
        text = resources.files("invad_jax").joinpath(room, name).read_text(encoding="utf-8")
        if name == "serve.css":
            text = f":root {{ --heat: {colour_bar()}; }}\n{text}"
        _add_page(app, path, text, kind)


def _add_page(app: FastAPI, path: str, text: str, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    def page() -> Response:
        return Response(text, media_type=f"{kind}; charset=utf-8")


async def _body(request: Request, max_bytes: int) -> bytes:
    """The content of an image; no more than is allowed is ever held."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(415, "content-type: expected image/... or application/octet-stream")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise HTTPException(413, f"more than {max_bytes} bytes; see --max-megabytes")
    return bytes(content)


def _kind(line: Line, name: str) -> Kind:
    calibration = line.calibrated.each[line.calibrated.names.index(name)]
    normals = line.normals[name]
    return Kind(
        name=name,
        threshold=line.thresholds[name],
        calibrated_threshold=calibration.threshold,
        false_positive_rate=calibration.false_positive_rate,
        num_normals=calibration.num_normals,
        normals=normals.tolist(),
        range=score_range([calibration.threshold * 3], calibration.threshold, normals),
    )


def _table(records: list[Record]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    columns = (
        "id",
        "time",
        "name",
        "decision",
        "image_score",
        "threshold",
        "component",
        "normal_percentile",
        "milliseconds",
        "error",
    )
    writer.writerow(columns)
    for record in records:
        cells = [getattr(record, column) for column in columns]
        writer.writerow([_harmless(cell) for cell in cells])
    return stream.getvalue()


def _harmless(cell: object) -> object:
    """A name that a spreadsheet would compute is told to be text."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
