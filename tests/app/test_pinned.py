"""What is installed is what was pinned. Offline: no database of known holes is asked (docs/security.md)."""

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FREE = re.compile(
    r"\b(MIT|BSD|Apache|PSF|Python Software Foundation|MPL|Mozilla|ISC|HPND|Zlib|0BSD|CC0|LGPL|Unlicense|ZPL)\b"
)
"""Licences that let us use, change and pass on; of LGPL things we ship nothing changed."""


def pinned(lock: str) -> dict[str, tuple[Requirement, int]]:
    """What a lock file names, and how many hashes each has."""
    found = {}
    for entry in (ROOT / lock).read_text().replace("\\\n", " ").splitlines():
        if entry.strip() and not entry.lstrip().startswith("#"):
            requirement = Requirement(entry.partition("--hash")[0].strip())
            found[canonicalize_name(requirement.name)] = (
                requirement,
                len(re.findall("--hash=sha256:[0-9a-f]{64}", entry)),
            )
    return found


def licence(of: Distribution) -> str:
    told = of.metadata.get_all("Classifier", [])
    return " ".join(
        [
            str(of.metadata.get("License-Expression", "")),
            str(of.metadata.get("License", ""))[:200],
            *(one for one in told if one.startswith("License ::")),
        ]
    )


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_package_is_pinned_by_hash_and_installed_as_pinned_and_free(lock: str) -> None:
    packages = pinned(lock)
    assert len(packages) > 30
    for name, (requirement, hashes) in packages.items():
        assert hashes > 0, f"{name} could be anything"
        assert [one.operator for one in requirement.specifier] == ["=="], name
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        here = distribution(name)
        assert requirement.specifier.contains(here.version), f"{name} {here.version} is not what {lock} says"
        assert FREE.search(licence(here)), f"{name}: {licence(here)!r}"
        # A direct address, a local folder or a repository would go past the hashes.
        assert here.read_text("direct_url.json") is None, name


def test_what_the_project_asks_for_is_in_the_lock_and_the_locks_agree() -> None:
    run, develop = pinned("requirements.lock"), pinned("requirements-dev.lock")
    for name, (requirement, _) in run.items():
        assert str(develop[name][0].specifier) == str(requirement.specifier), name
