"""A headless Chromium over the pipe of its DevTools protocol: what a page does when it is really opened."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_SECONDS = 90.0
# Descriptors of Chromium's --remote-debugging-pipe: it reads 3 and writes 4.
_READS, _WRITES = 3, 4


class Browser:
    """One page in a browser; what it logs and asks the network for is kept.

    Attributes:
        problems: console errors, exceptions and violations of its policy.
        requests: URLs that it asked for, data: and its own left out.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._number = 0
        self._read = b""
        self._session = ""
        self._loaded: set[str] = set()
        self.problems: list[str] = []
        self.requests: list[str] = []

    def attach(self) -> None:
        """Make a page of our own and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, page: Path, width: int, dark: bool = False, height: int = 800, fragment: str = "") -> None:
        """Open a file at a width in CSS pixels, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.emulate(dark=dark)
        # Another URL than before: one that differs in its fragment only is not loaded anew.
        self._go("about:blank")
        self.problems, self.requests = [], []
        self._go(f"{page.as_uri()}{fragment}")

    def _go(self, url: str) -> None:
        loader = self.call("Page.navigate", url=url)["loaderId"]
        deadline = time.monotonic() + _SECONDS
        while loader not in self._loaded:
            self._take(self._message(deadline))

    def emulate(self, dark: bool = False, media: str = "") -> None:
        """Choose light or dark, screen or print."""
        scheme = "dark" if dark else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path, full: bool = True) -> None:
        """Write a PNG of the page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        """The page as printed."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        request: dict[str, Any] = {"id": self._number, "method": method, "params": arguments}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._out, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while True:
            message = self._message(deadline)
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                result: dict[str, Any] = message["result"]
                return result
            self._take(message)

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium did not answer in time."
            more = os.read(self._in, 1 << 20)
            assert more, "Chromium has ended by itself."
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _take(self, message: dict[str, Any]) -> None:
        """Note an event."""
        values = message.get("params", {})
        match message.get("method"):
            case "Page.lifecycleEvent" if values["name"] == "load":
                self._loaded.add(values["loaderId"])
            case "Runtime.exceptionThrown":
                self.problems.append(str(values["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "warning", "assert"):
                self.problems.append(str(values["args"]))
            case "Log.entryAdded":
                self.problems.append(f"{values['entry']['level']}: {values['entry']['text']}")
            case "Network.requestWillBeSent":
                self.requests.append(values["request"]["url"])


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile, ended with everything it started."""
    assert EXECUTABLE is not None
    down, up = os.pipe(), os.pipe()
    # High numbers first: one of the pipes may have got 3 or 4, which the duplicates would overwrite.
    child_in, child_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (down[0], up[1]))
    words = [
        EXECUTABLE, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
        "--hide-scrollbars",
        *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
    ]  # fmt: skip
    quiet = (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)
    actions = [(os.POSIX_SPAWN_DUP2, child_in, _READS), (os.POSIX_SPAWN_DUP2, child_out, _WRITES), quiet]
    process = os.posix_spawn(EXECUTABLE, words, dict(os.environ), file_actions=actions, setsid=True)
    for fd in (down[0], up[1], child_in, child_out):
        os.close(fd)
    try:
        page = Browser(down[1], up[0])
        page.attach()
        yield page
    finally:
        # Its session is its own: nothing else is in that group.
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(down[1])
        os.close(up[0])
