"""Facts in the forms of docs/openapi.json, as three hosts would tell them: small, crowded, and full of markup."""

import hashlib
import time

MIB = 1 << 20
NOW = int(time.time() * 1000)

MARKUP = "<img src=x onerror=\"owned=1\"><script>owned=1</script><b>bold</b>"
TRICKS = MARKUP + "'\"`&amp;${owned=1}\u202etxt.exe\u0007\u2028{{js}}</style></script>"


def digest(text):
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


class Scene:
    def __init__(self, name, families, mode="normal", why=None):
        self.name, self.mode, self.why = name, mode, why
        self.runs, self.events, self.checks, self.gone, self.fleet = [], [], [], False, None
        stacks = [(image, keys) for images in families for image, keys in images]
        users, volumes = {}, {}
        for _, keys in stacks:
            for at in range(len(keys)):
                path = "\0".join(keys[:at + 1])
                users[path] = users.get(path, 0) + 1
                volumes.setdefault(path, len(volumes) + 2)
        self.images = []
        for image, keys in stacks:
            layers = []
            for at, key in enumerate(keys):
                path = "\0".join(keys[:at + 1])
                size = (int(digest(path)[7:11], 16) % 900 + 12) * MIB // (8 if at else 2)
                layers.append({"key": key, "bytes": size, "digest": digest(path), "volume": volumes[path],
                               "own_bytes": size * 11 // 10, "shared_with": users[path] - 1})
            self.images.append({"image": image, "chain": digest(image), "layers": layers, "activations": []})
        self.activations = []

    def activate(self, name, image, state="active", mapped=True):
        line = self.images[image]
        line["activations"].append(name)
        number = 1000 + len(self.activations)
        self.activations.append({"name": name, "image": line["image"], "state": state, "mapped": mapped,
                                 "path": "/dev/mapper/" + name, "volume": number,
                                 "origin": line["layers"][-1]["volume"], "bytes": 4 << 30})

    def run(self, verb, subject, state, step, attempt=1, interrupted=False, cancel=None):
        self.runs.append({"id": 41 + len(self.runs), "verb": verb, "subject": subject, "input": "{}", "state": state,
                          "priority": 0, "step": step, "attempt": attempt, "cancel": cancel,
                          "created_ms": NOW - 65000 * (len(self.runs) + 1), "updated_ms": NOW, "finished_ms": None,
                          "interrupted": interrupted})

    def event(self, subject, before, after, detail):
        self.events.append({"seq": 3 * len(self.events) + 5, "at_ms": NOW - 1000 * (400 - len(self.events)),
                            "subject": subject, "from": before, "to": after, "detail": detail})

    def follow(self, name, images, refused=None):
        line = {"in_rollout": True, "state": "ready", "why": None, "wait_s": None}
        self.fleet = {"url": "s3://b/fleet/w.json", "fleet": name, "class": None, "host": name, "site": name, "labels": {},
                      "hold": False, "paused": False, "serial": 42, "age_s": 12, "refused": refused, "wait_s": None,
                      "images": [{**line, "name": image, "image": image} for image in images], "activations": [],
                      "remove": [{**line, "name": name, "image": name, "in_rollout": None, "state": "left", "why": name}]}

    def answer(self, path, query):
        """Status and body; none where the daemon has to say it."""
        if path == "/v1/status":
            return 200, {"version": "0.1.0", "mode": self.mode, "why": self.why, "pid": 1, "started_ms": NOW - 7200000,
                         "stopping": False, "queued": 0, "working": 0, "settings": {}}
        if path == "/readyz":
            return (503 if self.checks else 200), {"ready": not self.checks, "mode": self.mode, "why": self.why,
                                                   "checks": self.checks}
        if path == "/v1/pool":
            return 200, {"store": {"kind": "thin", "id": self.name}, "registry_transaction_id": 812,
                         "condition": {"mode": "rw", "data": {"total": 64 << 30, "used": 37 << 30, "block": 65536},
                                       "metadata": {"total": 256 * MIB, "used": 219 * MIB, "block": 4096},
                                       "transaction_id": 812},
                         "totals": {"blobs": 1, "layers": 1, "images": 1, "activations": 1}}
        if path == "/v1/listing":
            layers = {layer["volume"]: layer["bytes"] for image in self.images for layer in image["layers"]}
            return 200, {"store": {"kind": "thin", "id": self.name},
                         "space": {"total": 64 << 30, "used": 37 << 30, "block": 65536},
                         "layer_bytes": sum(layers.values()),
                         "unshared_bytes": sum(layer["bytes"] for i in self.images for layer in i["layers"]),
                         "images": self.images, "activations": self.activations}
        if path == "/v1/usage":
            return 200, {"space": {"total": 1, "used": 1, "block": 1}, "activations": [], "garbage_bytes": 0,
                         "foreign": [], "images": [
                             {"image": image["image"], "bytes": 0, "shared_bytes": 0, "exclusive_bytes": 0,
                              "would_free_bytes": 0, "pinned": at % 7 == 1, "activations": []}
                             for at, image in enumerate(self.images)]}
        if path == "/v1/host":
            return 200, {"id": self.fleet and self.fleet["host"], "site": None, "mode": self.mode, "total_bytes": 64 << 30,
                         "free_bytes": 27 << 30, "queued": 0, "working": 0, "fleet_serial": self.fleet and 42}
        if path == "/v1/fleet" and self.fleet:
            return 200, self.fleet
        if path == "/v1/runs":
            return 200, {"runs": self.runs}
        if path == "/v1/events":
            after, limit = int(query.get("after", 0)), int(query.get("limit", 1000))
            return 200, [event for event in self.events if event["seq"] > after][:limit]
        return 404, {"detail": "no such path"}


def small():
    def family(name, base, tops):
        return [(f"s3://images/images/{name}-{top}/", [f"images/{name}/{key}.tar" for key in base + own])
                for top, own in tops]
    scene = Scene("veneer", [
        family("golang", ["1", "2", "3"], [("1.24", ["4a"]), ("1.25", ["4b", "5b"]), ("1.25-tools", ["4b", "5b", "6"])]),
        family("node", ["1", "2"], [("22", ["3a", "4"]), ("24", ["3b"])]),
        family("python", ["1"], [("3.11", ["2", "3"]), ("3.13", ["2", "3x"]), ("3.13-gpu", ["2", "3x", "4", "5"])]),
    ])
    scene.follow("prod", ["s3://images/images/node-24/", "s3://images/images/python-3.14/"])
    scene.activate("web-1", 1)
    scene.activate("web-2", 1)
    scene.activate("api", 3)
    scene.activate("batch", 7, state="inactive", mapped=False)
    scene.run("ensure", "s3://images/images/python-3.14/", "running", "layer 3 of 5: s3://images/images/python-3.14/3.tar, 52428800 bytes")
    scene.run("activate", "web-3", "running", "waits for image s3://images/images/node-24/, which process 4711 works on", 2)
    scene.run("gc", "store", "queued", "")
    for at in range(60):
        scene.event(f"volume {at}", None, "building", f"layer images/node/{at}.tar on volume {at - 1}")
        scene.event(f"volume {at}", "building", "sealed", "")
    scene.event("activation web-1", "reserved", "active", "origin 7")
    scene.event("run 40", "running", "done", "")
    return scene


def crowd():
    families = []
    for family in range(25):
        base = [f"f{family}/{at}.tar" for at in range(1, 2 + family % 4)]
        families.append([(f"s3://fleet/images/app-{family:02}/release-{n:03}/",
                          base + [f"f{family}/mid-{n // 5}.tar"] * (family % 2) + [f"f{family}/{n}-{at}.tar" for at in range(family % 5 + 1)])
                         for n in range(20)])
    scene = Scene("fleet", families, "drain", "somebody asked for it")
    scene.checks = [{"name": "pool_meta_ratio", "ok": False, "reason": "metadata 86 % used, limit 80 %", "age_ms": 5}]
    for at in range(300):
        scene.activate(f"vm-{at:03}", at)
    for at in range(200):
        scene.run("activate", f"vm-{at + 300}", "queued", "")
    for at in range(5000):
        scene.event(f"volume {at}", "building", "sealed", "")
    return scene


def hostile():
    scene = Scene(TRICKS, [
        [(f"s3://bucket/{TRICKS}/", [f"{TRICKS}/1.tar", f"{TRICKS}/2.tar"]), (f"s3://bucket/{'long-' * 80}/", [f"{TRICKS}/1.tar", "3.tar"])],
        [("s3://bucket/__proto__/", ["__proto__", "constructor"])],
    ], "rescue", TRICKS)
    scene.checks = [{"name": "db_write", "ok": False, "reason": TRICKS, "age_ms": 1}]
    scene.follow(TRICKS, [TRICKS, "__proto__"], TRICKS)
    scene.activate(TRICKS, 0)
    scene.activate("__proto__", 2)
    scene.run("ensure", TRICKS, "running", TRICKS, cancel=TRICKS)
    scene.run("ensure", "x" * 2000, "running", "layer 99999999999999999999 of 0", interrupted=True)
    for _ in range(8):
        scene.event(TRICKS, TRICKS, TRICKS, TRICKS)
    scene.event("volume 1", None, None, "y" * 3000)
    return scene
