"""The explorer page: files that are read once and served as they are, to look into a model by hand."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HTML, _CSS, _SCRIPT = "text/html", "text/css", "text/javascript"
_FILES = {
    "/": ("index.html", _HTML),
    "/explorer.css": ("explorer.css", _CSS),
    **{
        f"/{name}.js": (f"{name}.js", _SCRIPT)
        for name in ("explorer", "api", "dom", "filters", "map", "playlists", "search")
    },
}
PATHS = frozenset(_FILES)
"""What browsers ask for before they can send a key; nothing in it is of the model."""


def add_page(app: FastAPI) -> None:
    """Serve the page at `/`."""
    folder = Path(__file__).parent
    for path, (name, kind) in _FILES.items():
        _add(app, path, (folder / name).read_bytes(), f"{kind}; charset=utf-8")


def _add(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=kind)
