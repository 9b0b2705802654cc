"""Opening a model: its address, its passport, and whether what answers is what it says."""

import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from common.errors import OptionError, RunError, ServingError
from common.export.passport import PASSPORT, check_folder, find_changes, read_passport
from common.serving.client import Client
from common.serving.protocol import MIB, Patience, Signature, Transport
from common.serving.rest_transport import RestServer

URL_FORMS = "grpc://host:8500 or http://host:8501[/v1/models/NAME[/versions/N]]"
PATHS = {
    **dict.fromkeys(("grpc", "grpcs"), r"(?:/(?P<name>[^/:]+)(?:/(?P<version>\d+))?)?"),
    **dict.fromkeys(
        ("http", "https"),
        r"(?P<before>[^:]*?)"
        r"(?:/v1(?:/models(?:/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+))?)?)?)?",
    ),
}
"""What the path of a URL looks like, by its scheme."""
KEYS = ("name", "version", "inputs", "labels", "signatures", "whole_scan", "files")
"""Of a passport, without which no scan can be sent."""


@dataclass(frozen=True)
class Address:
    """Where a model is served, and as what if the URL says so."""

    scheme: str
    target: str
    """host:port for gRPC; the URL before /v1 for REST."""
    name: str | None = None
    version: int | None = None


def parse_url(url: str) -> Address:
    """Read the URL of a server or of a model on it; raise `OptionError` unless it has such a form.

    grpc://host:port[/NAME[/VERSION]], grpcs://..., or
    http(s)://host[:port][/before][/v1[/models/NAME[/versions/VERSION]]].
    """
    wrong = OptionError(f"--url: found {url!r}; expected {URL_FORMS}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    is_grpc = parts.scheme in ("grpc", "grpcs")
    found = parts.scheme in PATHS and re.fullmatch(PATHS[parts.scheme], parts.path.rstrip("/"))
    extra = parts.query or parts.fragment or parts.username
    if not found or not host or extra or (is_grpc and port is None):
        raise wrong
    target = parts.netloc if is_grpc else f"{parts.scheme}://{parts.netloc}{found['before']}"
    version = found["version"]
    return Address(parts.scheme, target, found["name"], int(version) if version else None)


@contextmanager
def open_client(
    *,
    model: Path | None = None,
    passport: Path | None = None,
    url: str | None = None,
    patience: Patience | None = None,
    max_message_mib: float | None = None,
) -> Iterator[Client]:
    """Open a model, here or on a server, and check it against its passport.

    Args:
        model: folder of an exported version, whose files are checked against its passport.
        passport: a passport.json instead, where the model itself is on the server alone.
        url: of the server; None: the local twin.
        patience: deadline and tries of a request.
        max_message_mib: what one message may have; None: 2047 for gRPC, 256 for JSON.

    Raises:
        OptionError: no model is named, the URL is not one, or a limit or deadline is not positive.
        RunError: the folder is not an exported model, or its files are not those of its passport.
        ServingError: the server is away, or its model is another than the passport's.
    """
    content = find_passport(model, passport, url=url)
    entries = content["signatures"].items()
    signatures = {name: Signature.from_entry(entry) for name, entry in entries}
    transport = open_transport(content, model, url, patience or Patience(), max_message_mib)
    with closing(transport):
        client = Client(content, transport, signatures)
        check_model(client)
        yield client


def open_transport(
    passport: Mapping[str, Any],
    model: Path | None,
    url: str | None,
    patience: Patience,
    max_message_mib: float | None,
) -> Transport:
    """Return how a model is reached: a server's address or the SavedModel itself."""
    if max_message_mib is not None and not 0 < max_message_mib <= 2047:
        raise OptionError(f"--max_message_mib: found {max_message_mib:g}; expected 0 to 2047")
    if not patience.deadline_s > 0 or patience.retries < 0:
        raise OptionError(
            f"--deadline_s {patience.deadline_s:g}, --retries {patience.retries}: expected a "
            "deadline above 0 and 0 retries or more"
        )
    name, version = passport["name"], int(passport["version"])
    if url is None:
        from common.serving.local import LocalModel

        return LocalModel(model, name=name, version=version)
    address = parse_url(url)
    if address.version not in (None, version):
        raise OptionError(
            f"--url {url}: found version {address.version}; expected {version}, the passport's"
        )
    limit = None if max_message_mib is None else int(max_message_mib * MIB)
    options = {"name": address.name or name, "version": version, "patience": patience}
    if address.scheme.startswith("grpc"):
        grpc_transport = load_grpc(f"{address.scheme}://{address.target}")
        secure = address.scheme == "grpcs"
        return grpc_transport.GrpcServer(address.target, **options, limit=limit, secure=secure)
    return RestServer(address.target, **options, limit=limit)


def load_grpc(address: str) -> ModuleType:
    """Return `grpc_transport`; raise `OptionError` if its extra package is missing."""
    try:
        from common.serving import grpc_transport
    except ModuleNotFoundError as absent:
        raise OptionError(
            f"{address}: the package {absent.name} is not installed; expected `pip install grpcio "
            "protobuf`, or http://host:8501"
        ) from None
    return grpc_transport


def find_passport(model: Path | None, passport: Path | None, *, url: str | None) -> dict[str, Any]:
    """Read the passport that the options name, and check the model's files against it."""
    if model is None and (passport is None or url is None):
        raise OptionError(
            "expected --model models/<name>/<version>, or --url with --passport passport.json"
        )
    if passport is not None and Path(passport).name != PASSPORT:
        raise OptionError(f"--passport: found {passport}; expected a {PASSPORT}")
    if model is not None:
        check_folder(Path(model))
    folder = Path(model) if passport is None else Path(passport).parent
    content = read_passport(folder)
    if missing := [key for key in KEYS if key not in content]:
        raise RunError(f"{folder / PASSPORT}: found no {missing[0]!r}; expected a whole passport")
    if model is not None and (changes := find_changes(Path(model), content["files"])):
        raise RunError(f"{model} is not as {PASSPORT} says: {changes[0]}")
    return content


def check_model(client: Client) -> None:
    """Raise `ServingError` unless version and signatures of the model are the passport's."""
    served, address = client.transport.ask_metadata(), client.address
    if served.version != int(client.passport["version"]):
        raise ServingError(
            f"{address}: found version {served.version} of {served.name!r}; expected "
            f"{client.passport['version']}, the passport's"
        )
    for name, expected in client.signatures.items():
        found = served.signatures.get(name)
        if found is None:
            known = ", ".join(sorted(served.signatures)) or "none"
            raise ServingError(
                f"{address}: model {served.name!r} has no signature {name!r} (found {known}); "
                "expected the model of the passport"
            )
        for kind in ("inputs", "outputs"):
            ours, theirs = getattr(expected, kind), getattr(found, kind)
            if ours.keys() != theirs.keys() or not all(theirs[k].agrees(ours[k]) for k in ours):
                shown, wanted = (
                    ", ".join(f"{key} {spec}" for key, spec in sorted(specs.items()))
                    for specs in (theirs, ours)
                )
                raise ServingError(
                    f"{address}: {kind} of {name!r} of model {served.name!r}: found {shown}; "
                    f"expected {wanted}, as in the passport"
                )
