#!/usr/bin/env python3
"""The page of `orchestrate serve` in a browser. `just page-test`; with --shots DIR it leaves pictures to look at.

The document, its headers, the token and an empty host are the real daemon's. What a crowded or a hostile host would
tell stands between the two (scenes.py): no test has the time to make 500 images.
"""

import argparse
import http.client
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import chromium  # noqa: E402
import scenes  # noqa: E402

TOKEN = "0123456789abcdef0123456789abcdef"


class Daemon:
    def __init__(self, program, directory):
        token = os.path.join(directory, "token")
        with open(os.open(token, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write(TOKEN)
        self.log = os.path.join(directory, "log")
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [program, "--state", os.path.join(directory, "state"), "--store", "dir:" + os.path.join(directory, "store"),
                 "--log", "logfmt", "serve", "--listen", "127.0.0.1:0", "--token-file", token], stderr=log)
        end = time.monotonic() + chromium.PATIENCE_S
        while True:
            with open(self.log) as log:
                said = log.read()
            if found := re.search(r"msg=listening address=127\.0\.0\.1:(\d+)", said):
                self.port = int(found[1])
                return
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit("page-test: fatal: the daemon does not listen:\n" + said)
            time.sleep(0.05)

    def get(self, path, token=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=chromium.PATIENCE_S)
        connection.request("GET", path, headers={"Authorization": "Bearer " + token} if token else {})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, answer.headers, body

    def stop(self):
        self.process.terminate()
        self.process.wait(chromium.PATIENCE_S)


class Between(http.server.ThreadingHTTPServer):
    """Hands the daemon's document on as it is, and answers questions from a scene."""

    daemon_threads = True

    def __init__(self, daemon):
        super().__init__(("127.0.0.1", 0), Answer)
        self.daemon, self.scene, self.asked = daemon, None, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):
            pass

    def do_GET(self):
        target = urllib.parse.urlsplit(self.path)
        self.server.asked.append(target.path)
        scene = self.server.scene
        if target.path == "/":
            status, headers, body = self.server.daemon.get("/")
            headers = [(name, value) for name, value in headers.items() if name not in ("Connection", "Content-Length")]
        else:
            if scene.gone:
                self.close_connection = True
                return
            query = dict(urllib.parse.parse_qsl(target.query))
            status, value = scene.answer(target.path, query)
            if value == [] and "wait" in query:
                # As the daemon does, and not for as long.
                time.sleep(min(2, int(query["wait"])))
            lines = value if target.path == "/v1/events" else [value]
            body = "".join(json.dumps(line) + "\n" for line in lines).encode()
            headers = [("Content-Type", "application/json")]
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def check(what, found, wanted=True):
    assert found == wanted, f"{what}: {found!r} instead of {wanted!r}"
    print("ok", what, flush=True)


def text(browser, name):
    return browser.eval(f"document.getElementById({name!r}).textContent")


def real_daemon(browser, daemon, shots):
    status, headers, body = daemon.get("/")
    check("the document is given without a token", status, 200)
    check("and what it shows is not", [daemon.get(path)[0] for path in ("/v1/status", "/readyz", "/v1/listing", "/?x", "//")],
          [401] * 5)
    check("nor is the document kept", headers["Cache-Control"], "no-store")
    check("nor taken for something else", headers["X-Content-Type-Options"], "nosniff")
    check("nor does it tell where it was", headers["Referrer-Policy"], "no-referrer")
    check("the token is not in it", TOKEN.encode() in body, False)
    browser.open(f"http://127.0.0.1:{daemon.port}/")
    browser.until("the question for the token", "!document.getElementById('ask').hidden")
    browser.shot(shots("token"))
    check("the field has the focus", browser.eval("document.activeElement.id"), "token")
    browser.write("not-the-token-at-all")
    browser.key("Enter")
    browser.until("the refusal", "document.getElementById('wrong').textContent === 'That is not the token.'")
    browser.write(TOKEN)
    browser.key("Enter")
    browser.until("an empty host", "!document.getElementById('main').hidden && document.getElementById('images').innerText")
    check("the mode of an empty host", text(browser, "mode"), "normal")
    check("no image", text(browser, "images-n"), "0")
    browser.shot(shots("empty"))
    browser.open(f"http://127.0.0.1:{daemon.port}/")
    browser.until("the token to be remembered", "!document.getElementById('main').hidden")
    daemon.stop()
    browser.until("word that the daemon has gone", "!document.getElementById('trouble').hidden")
    with open(daemon.log) as log:
        check("the token is in no log", TOKEN in log.read(), False)


def load(browser, between, scene):
    between.scene = scene
    browser.open("about:blank")
    browser.open(between.address)
    count = len(scene.images)
    browser.until("the images", f"document.getElementById('images-n')?.textContent === '{count}' && "
                                "document.querySelectorAll('#events tbody tr').length > 8")


def small_host(browser, between, shots):
    scene = scenes.small()
    for scheme in ("light", "dark"):
        browser.view(scheme, 1280, 1500)
        load(browser, between, scene)
        browser.shot(shots("small-" + scheme))
    spans = browser.eval("[...document.querySelectorAll('.family')].map(f => Math.max(...[...f.querySelectorAll('.layer.shared')]"
                         ".map(l => l.getBoundingClientRect().height)) / f.getBoundingClientRect().height)")
    check("what all of a family stand on is one block as high as the family", [round(span, 2) for span in spans], [1, 1, 1])
    volumes = {layer["volume"] for image in scene.images for layer in image["layers"]}
    check("each volume is drawn once", browser.eval("document.querySelectorAll('.layer').length"), len(volumes))
    check("the live runs", browser.eval("document.querySelectorAll('#runs tbody tr').length"), 3)
    check("progress", browser.eval("document.querySelector('#runs .bar').getAttribute('aria-label')"), "layer 3 of 5")
    browser.key("/")
    check("a slash goes to the filter", browser.eval("document.activeElement.id"), "filter")
    browser.write("golang")
    browser.until("the filter to work", "document.getElementById('images-n').textContent === '3 of 8'")
    browser.key("ArrowDown")
    browser.key("ArrowDown")
    check("arrows move among images", browser.eval("document.activeElement.dataset.key"), "s3://images/images/golang-1.25/")
    browser.shot(shots("focus"))
    browser.key("Enter")
    browser.until("the layers of one", "document.getElementById('image').open")
    check("its layers", browser.eval("document.querySelectorAll('#image tbody tr').length"), 5)
    browser.shot(shots("layers"))
    browser.key("Escape")
    browser.until("it to close", "!document.getElementById('image').open")
    browser.key("/")
    browser.key("Escape")
    browser.until("all again", "document.getElementById('images-n').textContent === '8'")
    scene.event("activation new", None, "reserved", "just now")
    scene.activate("new", 0)
    browser.until("what happens to be shown by itself", "document.getElementById('activations').textContent.includes('/dev/mapper/new') && "
                  "document.querySelector('#events tbody tr').textContent.includes('just now')")
    print("ok it updates by itself")
    scene.gone = True
    browser.until("word of the loss", "!document.getElementById('trouble').hidden")
    browser.shot(shots("gone"))
    scene.gone = False
    browser.until("the return", "document.getElementById('trouble').hidden && document.getElementById('mode').textContent === 'normal'")
    print("ok it says when the daemon is gone, and comes back")
    hide = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s }); document.dispatchEvent(new Event('visibilitychange'))"
    browser.eval(hide % "true")
    time.sleep(1)
    before = len(between.asked)
    time.sleep(6)
    check("hidden, it asks nothing", len(between.asked), before)
    browser.eval(hide % "false")
    scene.event("activation new", "reserved", "active", "seen again")
    browser.until("it to go on", "document.querySelector('#events tbody tr').textContent.includes('seen again')")
    print("ok and goes on when it is seen")
    browser.view("light", 420, 900)
    check("it fits a narrow screen", browser.eval("document.documentElement.scrollWidth <= innerWidth"))
    browser.shot(shots("narrow"))


def crowded_host(browser, between, shots):
    scene = scenes.crowd()
    for scheme in ("light", "dark"):
        browser.view(scheme, 1280, 1700)
        load(browser, between, scene)
        browser.shot(shots("crowd-" + scheme))
    check("the list of images is cut", browser.eval("document.querySelector('#images .more').textContent"), "440 more")
    check("that of activations, too", browser.eval("document.querySelector('#activations .more').textContent"), "288 more")
    nodes = browser.eval("document.querySelectorAll('*').length")
    check(f"few elements for so many images ({nodes})", nodes < 2500)
    # All of them at once: what is drawn grows with what is shown and no faster.
    spent = browser.eval("(() => { const t = performance.now(); shown.images = 60; drawn.images = ''; drawImages(); const a = performance.now() - t;"
                         " shown.images = 500; drawImages(); document.body.offsetHeight; return [a, performance.now() - t - a].map(Math.round) })()")
    print(f"   60 images: {spent[0]} ms, 500 images: {spent[1]} ms")
    check("all 500 are there when wanted", browser.eval("document.querySelectorAll('.family button').length"), 500)
    browser.key("/")
    browser.write("app-07/release-01")
    browser.until("the filter", "document.getElementById('images-n').textContent === '10 of 500'")
    check("the filtered are few", browser.eval("document.querySelectorAll('.family button').length"), 10)
    browser.shot(shots("filtered"))
    asked = between.asked.count("/v1/events")
    check(f"the last of 5000 events are found without reading all ({asked} questions)", asked < 120)


def hostile_host(browser, between, shots):
    scene = scenes.hostile()
    for scheme in ("light", "dark"):
        browser.view(scheme, 1280, 1500)
        load(browser, between, scene)
        browser.shot(shots("hostile-" + scheme))
    browser.eval("document.querySelector('.family button').click()")
    browser.shot(shots("hostile-layers"))
    browser.eval("document.getElementById('image').close()")
    check("no markup of data", browser.eval("document.querySelectorAll('img, b, iframe, object, svg, a, script:not(body > script)').length"), 0)
    check("no script of data", browser.eval("typeof owned"), "undefined")
    check("nothing is on every object", browser.eval("Object.keys(Object.prototype).length"), 0)
    for part in ("mode", "pool", "pool-n", "runs", "images", "activations", "events"):
        shown = browser.eval(f"document.getElementById({part!r}).innerText")
        check(f"names are shown as they are: {part}", scenes.MARKUP in shown)
        check(f"what hides in text is written out: {part}", "\\u{202e}" in shown and "\u202e" not in shown and "\u0007" not in shown)
    check("nothing is wider than the window", browser.eval("document.documentElement.scrollWidth <= innerWidth"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("orchestrate")
    parser.add_argument("--shots", metavar="DIR")
    args = parser.parse_args()
    chromium.program()
    if args.shots:
        os.makedirs(args.shots, exist_ok=True)
    shots = lambda name: os.path.join(args.shots, name + ".png") if args.shots else None
    with tempfile.TemporaryDirectory(prefix="veneer-page-") as directory:
        daemon = Daemon(args.orchestrate, directory)
        browser = None
        try:
            browser = chromium.Browser()
            browser.view()
            between = Between(daemon)
            small_host(browser, between, shots)
            crowded_host(browser, between, shots)
            hostile_host(browser, between, shots)
            browser.view()
            real_daemon(browser, daemon, shots)
            check("the browser complains of nothing", browser.complaints(), [])
            own = (between.address, f"http://127.0.0.1:{daemon.port}/", "about:blank", "data:image/svg+xml;base64,")
            check("nobody else is asked", [url for url in browser.asked() if not url.startswith(own)], [])
        finally:
            if browser:
                browser.close()
            if daemon.process.poll() is None:
                daemon.stop()
    print("page-test: all well")


if __name__ == "__main__":
    main()
