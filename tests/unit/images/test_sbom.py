"""What the list of an image's contents says."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from imagebuild.sbom import debian, document, python

DPKG = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u14
Description: GNU C Library
 Status: is not what this line is about

Package: nano
Status: deinstall ok config-files
Architecture: amd64
Version: 7.2-1
"""


def package(folder: Path, name: str, *fields: str) -> metadata.Distribution:
    info = folder / f"{name}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2+cu1", *fields, ""]
    (info / "METADATA").write_text("\n".join(lines))
    return metadata.Distribution.at(info)


def test_debian_packages_are_those_that_are_installed_under_their_package_urls() -> None:
    (libc,) = debian(DPKG)
    assert libc["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"
    assert (libc["name"], libc["version"]) == ("libc6", "2.36-9+deb12u14")


def test_python_packages_have_their_normal_names_and_the_licence_they_state(tmp_path: Path) -> None:
    old = package(tmp_path, "Old_Style.name", "License: BSD")
    new = package(tmp_path, "new", "License-Expression: Apache-2.0")
    whole_text = package(tmp_path, "text", "License: Copyright", "        All rights")
    silent = package(tmp_path, "silent")
    found = python([old, new, whole_text, silent])
    assert [one["name"] for one in found] == ["old-style-name", "new", "text", "silent"]
    assert found[0]["purl"] == "pkg:pypi/old-style-name@1.2%2Bcu1"
    assert [one.get("licenses") for one in found] == [
        [{"license": {"name": "BSD"}}],
        [{"license": {"name": "Apache-2.0"}}],
        None,
        None,
    ]


def test_list_is_cyclonedx_and_the_same_in_whatever_order_packages_are_found(tmp_path: Path) -> None:
    parts = [*debian(DPKG), *python([package(tmp_path, "b"), package(tmp_path, "a")])]
    one = document("phitune/operator", "1", parts)
    assert one == document("phitune/operator", "1", reversed(parts))
    assert (one["bomFormat"], one["specVersion"]) == ("CycloneDX", "1.6")
    assert [part["name"] for part in one["components"]] == ["libc6", "a", "b"]
    assert len({part["bom-ref"] for part in one["components"]}) == 3


def test_packages_of_a_real_environment_are_listed() -> None:
    names = {one["name"] for one in python(metadata.distributions())}
    assert {"torch", "kopf", "pydantic"} <= names
