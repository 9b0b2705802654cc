"""requirements.lock is what setup.cfg asks for: with a version and hashes for every name."""

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def locked():
    """Return the lines of the lock as requirements, and the hashes below each."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    return [
        (Requirement(entry.partition("\\")[0].strip()), re.findall("--hash=sha256:", entry))
        for entry in entries
    ]


def test_every_requirement_is_locked_within_its_bounds():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"].splitlines()
    lines += settings["options.extras_require"]["dev"].splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    known = {}
    for found, _ in locked():
        known.setdefault(canonicalize_name(found.name), []).append(
            str(found.specifier).removeprefix("==")
        )
    for requirement in wanted:
        versions = known[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_every_version_has_hashes_and_no_address():
    for requirement, hashes in locked():
        assert [each.operator for each in requirement.specifier] == ["=="]
        assert hashes, requirement
        assert requirement.url is None
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")
