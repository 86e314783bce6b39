"""Chromium without a window, over its debugging pipe: no library, no port. What is tested is in try.py."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE_S = 120


def program():
    for name in (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser"):
        if name and shutil.which(name):
            return shutil.which(name)
    sys.exit("page-test: fatal: there is no chromium: install the Debian package `chromium`, or set CHROMIUM")


class Browser:
    """A browser with a profile of its own, and one tab."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="veneer-page-")
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
                 "--remote-debugging-pipe", "--user-data-dir=" + self.profile, "about:blank"]
        # The pipe's ends have the numbers 3 and 4 there.
        line = f'exec "$@" 3<&{to_read} 4>&{from_write}'
        self.process = subprocess.Popen(["bash", "-c", line, "bash", program(), *flags], pass_fds=(to_read, from_write),
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(from_write)
        self.pipe, self.number, self.answers, self.session = to_write, 0, {}, None
        self.came, self.events = threading.Condition(), []
        threading.Thread(target=self.listen, args=(from_read,), daemon=True).start()
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def listen(self, pipe):
        left = b""
        while piece := os.read(pipe, 1 << 20):
            *whole, left = (left + piece).split(b"\0")
            with self.came:
                for message in map(json.loads, whole):
                    if "id" in message:
                        self.answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self.came.notify_all()

    def call(self, method, **params):
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.pipe, json.dumps(message).encode() + b"\0")
        with self.came:
            if not self.came.wait_for(lambda: number in self.answers, PATIENCE_S):
                raise TimeoutError(method)
            answer = self.answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, address):
        self.call("Page.navigate", url=address)

    def eval(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, what, script):
        """Waits for the condition, however long a busy machine takes."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                if value := self.eval(script):
                    return value
            except RuntimeError as error:
                # The document is just being replaced.
                if "context" not in str(error) and "null" not in str(error):
                    raise
            time.sleep(0.1)
        raise AssertionError(f"never came: {what}: {script}\n{self.eval('document.body.innerText')}")

    def key(self, key, text=None):
        codes = {"Enter": 13, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, "Tab": 9, "End": 35, "Home": 36}
        code = codes.get(key, ord(key[0].upper()))
        text = text or ("\r" if key == "Enter" else key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def view(self, scheme="light", width=1280, height=900):
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def shot(self, path):
        if path:
            with open(path, "wb") as file:
                file.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the browser has against the document: exceptions, and what its policy forbids."""
        said = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(event["params"]["exceptionDetails"])[:600])
            if event["method"] == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry["source"] != "network":
                    said.append(entry["text"])
        return said

    def asked(self):
        return [event["params"]["request"]["url"] for event in self.events
                if event["method"] == "Network.requestWillBeSent"]

    def close(self):
        try:
            self.call("Browser.close")
        except (OSError, TimeoutError, RuntimeError):
            self.process.kill()
        self.process.wait(PATIENCE_S)
        os.close(self.pipe)
        shutil.rmtree(self.profile, ignore_errors=True)
