"""boto3's answer for each shape of configuration in shapes.txt, as table.tsv. No byte leaves this machine."""

import os
import pathlib
import sys
import tempfile
import urllib.parse

import boto3
import botocore
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

HERE = pathlib.Path(__file__).parent
KEPT = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true"}


class Raw:
    """What botocore reads an answer's body from."""

    def __init__(self, body):
        self.body = body

    def stream(self, **_):
        yield self.body

    def read(self, *_, **__):
        body, self.body = self.body, b""
        return body


def answer(request, body):
    headers = {"content-length": str(len(body)), "content-type": "text/xml"}
    return AWSResponse(request.url, 200, headers, Raw(body))


def credential(request):
    """Who signed a request, and for which region."""
    header = request.headers.get("Authorization", "")
    header = header.decode() if isinstance(header, bytes) else header
    if "Credential=" not in header:
        return "-", "-"
    scope = header.split("Credential=")[1].split(",")[0].split("/")
    return scope[0], scope[2]


def token(request):
    found = request.headers.get("X-Amz-Security-Token", "-")
    return found.decode() if isinstance(found, bytes) else found


def ask(shape):
    """key, token, URL, region, authorities, questions to STS."""
    asked, seen = [], {}

    def sts(request, **_):
        body = request.body.decode() if isinstance(request.body, bytes) else request.body
        form = dict(urllib.parse.parse_qsl(body))
        action = form.pop("Action")
        form.pop("Version")
        if form.get("RoleSessionName", "").startswith("botocore-session-"):
            form["RoleSessionName"] = "*"
        key, region = credential(request)
        pairs = ",".join(f"{k}={v.strip()}" for k, v in sorted(form.items()))
        asked.append(f"{action} {request.url} {key} {region} {pairs}")
        lent = (
            f"<Credentials><AccessKeyId>ROLE{len(asked)}</AccessKeyId><SecretAccessKey>S</SecretAccessKey>"
            "<SessionToken>LENT</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
        )
        body = f"<{action}Response><{action}Result>{lent}</{action}Result></{action}Response>"
        return answer(request, body.encode())

    def s3(request, **_):
        seen["url"] = request.url
        seen["key"], seen["region"] = credential(request)
        seen["token"] = token(request)
        return answer(request, b"")

    def client(config):
        made = session.client("s3", config=config)
        made.meta.events.register("before-send.s3.*", s3)
        seen["ca"] = made._endpoint.http_session._verify
        return made

    try:
        core = botocore.session.get_session()
        core.get_component("event_emitter").register("before-send.sts.*", sts)
        session = boto3.Session(botocore_session=core, profile_name=shape["profile"])
        try:
            client(None).get_object(Bucket="bkt", Key="k")
        except NoCredentialsError:
            client(Config(signature_version=UNSIGNED)).get_object(Bucket="bkt", Key="k")
    except Exception as error:  # whatever it is, it is an error to who asks
        return [f"error {type(error).__name__}", "-", "-", "-", "-", "-"]
    ca = seen["ca"] if isinstance(seen["ca"], str) else "-"
    return [seen["key"], seen["token"], seen["url"], seen["region"], ca, " | ".join(asked) or "-"]


def shapes():
    shape, into = None, None
    for line in (HERE / "shapes.txt").read_text().splitlines():
        if line.startswith("= "):
            shape, into = {"name": line[2:], "env": {}, "files": {}, "profile": None}, None
            yield shape
        elif shape is None:
            continue
        elif line.startswith("> "):
            name, value = line[2:].split("=", 1)
            shape["env"][name] = value
        elif line.startswith("! profile="):
            shape["profile"] = line.split("=", 1)[1]
        elif line.startswith("--- "):
            into = line[4:]
            shape["files"][into] = ""
        else:
            shape["files"][into] += line + "\n"


def main():
    # Who would type a code in for a role is not here.
    sys.stdin.close()
    rows = [f"# boto3 {boto3.__version__}: name, key, token, URL, region of the signature, authorities, STS"]
    for shape in list(shapes()):
        with tempfile.TemporaryDirectory() as folder:
            os.environ.clear()
            os.environ.update(KEPT, HOME=folder)
            for name, value in shape["env"].items():
                os.environ[name] = value.replace("{dir}", folder)
            for name, text in shape["files"].items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                path.write_text(text.replace("{dir}", folder))
            cells = [shape["name"], *(cell.replace(folder, "{dir}") for cell in ask(shape))]
        rows.append("\t".join(cells))
    (HERE / "table.tsv").write_text("\n".join(rows) + "\n")
    print(f"{len(rows) - 1} shapes", file=sys.stderr)


main()
