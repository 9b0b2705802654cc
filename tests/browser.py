"""A headless Chromium that is spoken to over its own debugging pipe; no driver, no network."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--disable-gpu-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--no-first-run", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
PATIENCE_S = 60


def find_chromium() -> str | None:
    """Return the browser's program, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def open_browser(program, profile, *, size=(1280, 900)):
    """Start a browser with one page; it ends with the block."""
    commands, ours_out = os.pipe()
    ours_in, answers = os.pipe()

    def connect():
        # Chromium reads its commands from descriptor 3 and answers on 4. The pipes' own numbers may
        # be these, so they step aside first.
        spare = [os.dup(commands), os.dup(answers)]
        os.dup2(spare[0], 3)
        os.dup2(spare[1], 4)

    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"],
        preexec_fn=connect,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        with os.fdopen(ours_in, "rb", 0) as answering, os.fdopen(ours_out, "wb", 0) as commanding:
            yield Browser(answering, commanding)
    finally:
        process.kill()
        process.wait()


class Browser:
    """One page of a running browser."""

    def __init__(self, answers, commands):
        self._answers, self._commands = answers, commands
        self._number, self._rest = 0, b""
        self.complaints = []
        """Console errors, uncaught exceptions, refused or attempted fetches, as text."""
        self.fetched = []
        """Addresses that were asked for, but for data and blobs inside the page."""
        self._session = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def load(self, address):
        """Open an address and wait until it is whole."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """Return the value of a JavaScript expression, which may be a promise."""
        done = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"])[:500])
        return done["result"].get("value")

    def wait(self, condition):
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} never held; {self.complaints}")
            time.sleep(0.1)

    def resize(self, width, height):
        """Give the page another size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def picture(self, selector=None):
        """Return what is seen of an element, or of the window, as PNG bytes."""
        clip = {}
        if selector:
            box = self.box(selector)
            clip = {"clip": {**box, "scale": 1}}
        done = self.call("Page.captureScreenshot", format="png", **clip)
        return base64.b64decode(done["data"])

    def box(self, selector):
        """Return x, y, width and height of an element on the page."""
        return self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
        )

    def click(self, x, y):
        """Click at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _read(self):
        while b"\0" not in self._rest:
            chunk = self._answers.read(1 << 16)
            if not chunk:
                raise RuntimeError("the browser has gone")
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(message)
        self._note(answer.get("method", ""), answer.get("params", {}))
        return answer

    def _note(self, event, details):
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(details["exceptionDetails"])[:500])
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "assert"):
            self.complaints.append(json.dumps(details["args"])[:500])
        elif event == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.complaints.append(details["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            address = details["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                self.fetched.append(address)
