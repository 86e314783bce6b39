"""fetch and orchestrate against every S3 server that a package brings: one matrix, the table of docs/fetch.md.

Run by `just servers` in the Python environment of packaging/aws-python.sh. Each server is started here, on a port
of its own on the loopback, filled by boto3, asked by the real programs, and ended. A server that is not to be had
is told and left out. With --short only those of CI; with --write the table goes into docs/fetch.md.
"""

import hashlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

ROOT = pathlib.Path(__file__).parent.parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "veneer"
ENV = CACHE / "aws-python" / "bin"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BIN = pathlib.Path(os.environ.get("VENEER_BIN", TARGET / "debug"))
COLUMNS = ["list", "get", "ranges", "empty", "odd keys", "checksum", "replaced", "version", "missing", "wrong secret",
           "anonymous", "activate"]
ODD = ["a b+c", "a%2Fb", "é", "x#?&y", "a//b", "trail/", "p\\q", "~'()*!", "n\nl", "c\x01d"]


def port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def servers(short):
    """Name, how to start it, keys."""
    s3s = CACHE / "tools" / "bin" / "s3s-fs"
    yield ("moto", lambda p, d: [ENV / "moto_server", "-H", "127.0.0.1", "-p", str(p)], ("AKIA", "secret"))
    yield (
        "s3s-fs",
        lambda p, d: [s3s, "--access-key", "AKIA", "--secret-key", "secret", "--host", "127.0.0.1", "--port", str(p), d],
        ("AKIA", "secret"),
    )
    if short:
        return
    yield ("localbucket", lambda p, d: [ENV / "localbucket", "--port", str(p), d], ("AKIA", "secret"))
    if (CACHE / "radosgw" / "usr" / "bin" / "radosgw").exists() and os.geteuid() == 0:
        radosgw = ROOT / "packaging" / "radosgw.sh"
        yield ("radosgw", lambda p, d: [radosgw, "run", str(p), d], ("AKIA", "secret"))
    else:
        print("servers: radosgw is not to be had: packaging/radosgw.sh get, as root", file=sys.stderr)
    s3rver = CACHE / "s3rver" / "node_modules" / ".bin" / "s3rver"
    yield (
        "s3rver",
        lambda p, d: [s3rver, "--directory", d, "--address", "127.0.0.1", "--port", str(p), "--silent"],
        ("S3RVER", "S3RVER"),
    )


class Server:
    def __init__(self, name, start, keys):
        self.name, self.keys, self.port = name, keys, port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.dir = tempfile.TemporaryDirectory()
        command = [str(word) for word in start(self.port, self.dir.name)]
        if not pathlib.Path(command[0]).exists():
            raise FileNotFoundError(command[0])
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdout=null, stderr=null, stdin=null, start_new_session=True)
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        self.end()
        raise TimeoutError(f"{name} does not listen")

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.dir.cleanup()

    def client(self):
        config = Config(
            s3={"addressing_style": "path"},
            retries={"max_attempts": 1},
            request_checksum_calculation="when_required",
        )
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.keys[0],
            aws_secret_access_key=self.keys[1],
            region_name="us-east-1",
            config=config,
        )

    def run(self, program, *args, secret=None, keys=True):
        env = {"PATH": os.environ["PATH"], "HOME": self.dir.name, "AWS_ENDPOINT_URL": self.url,
               "AWS_EC2_METADATA_DISABLED": "true", "VENEER_FETCH_TRIES": "2", "AWS_REGION": "us-east-1"}
        if keys:
            env |= {"AWS_ACCESS_KEY_ID": self.keys[0], "AWS_SECRET_ACCESS_KEY": secret or self.keys[1]}
        command = [str(BIN / program), *map(str, args)]
        return subprocess.run(command, env=env, capture_output=True, timeout=300, check=False)

    def fetch(self, *args, **how):
        return self.run("fetch", *args, **how)


def layer(name, text):
    with tempfile.TemporaryFile() as out:
        with tarfile.open(fileobj=out, mode="w") as tar:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            with tempfile.TemporaryFile() as content:
                content.write(text)
                content.seek(0)
                tar.addfile(info, content)
        out.seek(0)
        return out.read()


def said(ran):
    """The end of what a program said, for the log."""
    return ran.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]


def matrix(server):
    """A word for each column: yes, or what is the case instead."""
    s3, cells, log = server.client(), {}, []
    s3.create_bucket(Bucket="bkt")
    big = hashlib.shake_128(b"big").digest(40 << 20)

    def cell(name, good, ran, other="no"):
        cells[name] = "yes" if good else other
        if not good:
            log.append(f"{server.name}: {name}: exit {ran.returncode}: {said(ran)[0]}")

    def put(key, body, **how):
        return s3.put_object(Bucket="bkt", Key=key, Body=body, **how)

    for number, name in enumerate(["base", "top"], 1):
        put(f"image/{number}.tar", layer(name, name.encode() * 1000))
    ran = server.fetch("--list", "--json", "s3://bkt/image/")
    cell("list", ran.returncode == 0 and ran.stdout.count(b"\n") == 2, ran)
    put("k", b"hello")
    ran = server.fetch("s3://bkt/k")
    cell("get", ran.returncode == 0 and ran.stdout == b"hello", ran)
    try:
        put("big", big)
        ran = server.fetch("--jobs", 4, "s3://bkt/big")
        cell("ranges", ran.returncode == 0 and ran.stdout == big, ran)
    except (ClientError, BotoCoreError) as error:
        cells["ranges"] = "not taken"
        log.append(f"{server.name}: big: {error}")
    put("empty", b"")
    ran = server.fetch("s3://bkt/empty")
    cell("empty", ran.returncode == 0 and ran.stdout == b"", ran)
    taken = good = 0
    for key in ODD:
        try:
            put(f"odd/{key}", key.encode())
            # What the server itself can give back.
            if s3.get_object(Bucket="bkt", Key=f"odd/{key}")["Body"].read() != key.encode():
                continue
        except (ClientError, BotoCoreError):
            continue
        taken += 1
        ran = server.fetch(f"s3://bkt/odd/{key}")
        right = ran.returncode == 0 and ran.stdout == key.encode()
        good += right
        if not right:
            log.append(f"{server.name}: key {key!r}: exit {ran.returncode}: {said(ran)[0]}")
    cells["odd keys"] = "yes" if good == taken == len(ODD) else f"{good} of the {taken} it takes"
    try:
        put("sum", b"hello", ChecksumAlgorithm="SHA256")
        ran = server.fetch("s3://bkt/sum")
        cell("checksum", ran.returncode == 0 and ran.stdout == b"hello", ran)
    except (ClientError, BotoCoreError):
        cells["checksum"] = "not taken"
    put("was", b"before")
    etag = s3.head_object(Bucket="bkt", Key="was").get("ETag", "").strip('"')
    put("was", b"after!")
    ran = server.fetch("--etag", etag, "s3://bkt/was") if etag else None
    if ran is None:
        cells["replaced"] = "no ETags"
    else:
        cell("replaced", ran.returncode == 100 and ran.stdout == b"", ran)
    try:
        s3.put_bucket_versioning(Bucket="bkt", VersioningConfiguration={"Status": "Enabled"})
        first = put("v", b"one").get("VersionId")
        put("v", b"two")
    except (ClientError, BotoCoreError):
        first = None
    if first:
        ran = server.fetch("--version-id", first, "s3://bkt/v")
        cell("version", ran.returncode == 0 and ran.stdout == b"one", ran)
    else:
        cells["version"] = "has none"
    ran = server.fetch("s3://bkt/absent")
    cell("missing", ran.returncode == 100 and b"404" in ran.stderr, ran)
    ran = server.fetch("s3://bkt/k", secret="wrong")
    ok = ran.returncode == 0
    cell("wrong secret", ran.returncode == 100, ran, "not checked" if ok else "no")
    ran = server.fetch("--anonymous", "s3://bkt/k", keys=False)
    cells["anonymous"] = {0: "served", 100: "denied"}.get(ran.returncode, "no")
    if cells["anonymous"] == "no":
        log.append(f"{server.name}: anonymous: exit {ran.returncode}: {said(ran)[0]}")
    with tempfile.TemporaryDirectory() as home:
        flags = ["--state", f"{home}/state", "--store", f"dir:{home}/store"]
        ran = server.run("orchestrate", *flags, "activate", "s3://bkt/image/", "--name", "one")
        again = server.run("orchestrate", *flags, "activate", "s3://bkt/image/", "--name", "one")
        cell("activate", ran.returncode == 0 and again.returncode == 0, ran if ran.returncode else again)
    return cells, log


def main():
    short = "--short" in sys.argv
    rows, failed = {}, 0
    for name, start, keys in servers(short):
        try:
            server = Server(name, start, keys)
        except (FileNotFoundError, TimeoutError) as why:
            print(f"servers: {name} is not to be had: {why}", file=sys.stderr)
            failed += short
            continue
        try:
            cells, log = matrix(server)
        finally:
            server.end()
        print("\n".join(log), file=sys.stderr)
        rows[name] = cells
        for column in COLUMNS:
            if cells[column].startswith("no") and cells[column] not in ("not taken", "not checked", "no ETags"):
                failed += 1
            counts = cells[column].split(" of the ")
            failed += len(counts) == 2 and counts[0] != counts[1].split(" ")[0]
    lines = ["| server | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    lines += [f"| {name} | " + " | ".join(cells[c] for c in COLUMNS) + " |" for name, cells in rows.items()]
    table = "\n".join(lines)
    print(table)
    if "--write" in sys.argv:
        page = ROOT / "docs" / "fetch.md"
        before, rest = page.read_text().split("<!-- servers -->\n")
        _, after = rest.split("<!-- end -->")
        page.write_text(f"{before}<!-- servers -->\n{table}\n<!-- end -->{after}")
    print(f"{len(rows)} servers, {failed} cells wrong")
    sys.exit(1 if failed or not rows else 0)


main()
