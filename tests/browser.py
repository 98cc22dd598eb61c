"""A page in Chromium without a window: what it prints, what its script says, how it looks.

Chromium is that of PyQt6-WebEngine (`requirements-browser.txt`), in a process of its own:

    python -m tests.browser page.html 390 844 look.png "document.title"
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
_FLAGS = "--no-sandbox --disable-gpu --disable-dev-shm-usage --force-color-profile=srgb"
_PATIENCE = 1000  # times 50 ms that a script is asked again while it says null


class Seen(NamedTuple):
    """What became of a page."""

    values: list[Any]
    """What each script said."""
    console: list[str]
    """Warnings and errors, of the page and of what it loaded."""


def require() -> None:
    """Skips where there is no Chromium, or none that can start."""
    if importlib.util.find_spec("PyQt6") is None:
        pytest.skip("no Chromium: pip install --requirement requirements-browser.txt")
    problem = _problem()
    if problem:
        pytest.skip(f"Chromium lacks a library of the system (docs/development.md): {problem}")


@functools.cache
def _problem() -> str:
    """The last line of what importing it says, if it cannot be imported."""
    command = [sys.executable, "-c", "import PyQt6.QtWebEngineWidgets"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def look(
    page: str | Path, *scripts: str, size: tuple[int, int], picture: Path | None = None
) -> Seen:
    """Opens a file or an address, and asks scripts one after the other.

    Args:
      page: the file, or an address on this machine.
      *scripts: JavaScript; one that says null is asked again, for up to 10 s.
      size: width and height of the window, pixels.
      picture: PNG that is written in the end.
    """
    require()
    arguments = [str(page), *map(str, size), str(picture or ""), *scripts]
    quiet = {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1",
             "QTWEBENGINE_CHROMIUM_FLAGS": _FLAGS, "QT_LOGGING_RULES": "*=false"}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.browser", *arguments], cwd=PROJECT,
        env=os.environ | quiet, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Seen(**json.loads(done.stdout.splitlines()[-1]))


def _drawn(image: Any) -> bool:
    """Whether a QImage has more than one colour."""
    places = ((x, y) for x in range(0, image.width(), 7) for y in range(0, image.height(), 7))
    return len({image.pixel(x, y) for x, y in places}) > 1


def main(page: str, width: str, height: str, picture: str, *scripts: str) -> None:
    """Runs in a process of its own; prints a `Seen`."""
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineCore import QWebEnginePage
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    console: list[str] = []
    values: list[Any] = []

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level, message, line, source):
            if level != QWebEnginePage.JavaScriptConsoleMessageLevel.InfoMessageLevel:
                console.append(f"{source}:{line}: {message}")

    application = QApplication(["browser"])
    view = QWebEngineView()
    view.setPage(Page(view))
    view.resize(int(width), int(height))
    view.show()

    def finish(patience: int = _PATIENCE) -> None:
        image = view.grab().toImage()
        if patience and not _drawn(image):
            QTimer.singleShot(50, lambda: finish(patience - 1))
            return
        if picture:
            image.save(picture)
        print(json.dumps({"values": values, "console": console}))
        application.quit()

    def ask(patience: int = _PATIENCE) -> None:
        if len(values) == len(scripts):
            QTimer.singleShot(300, finish)  # until it is drawn
            return

        def answered(value: Any) -> None:
            if value in (None, "") and patience:
                QTimer.singleShot(50, lambda: ask(patience - 1))
                return
            values.append(value)
            ask()

        view.page().runJavaScript(scripts[len(values)], answered)

    def loaded(well: bool) -> None:
        if not well:
            console.append(f"{page}: could not be loaded")
        ask()

    view.loadFinished.connect(loaded)
    view.setUrl(QUrl(page) if "://" in page else QUrl.fromLocalFile(os.path.abspath(page)))
    application.exec()


if __name__ == "__main__":
    main(*sys.argv[1:])
