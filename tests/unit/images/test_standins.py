"""Which names a stand-in library gets, and under which versions."""

from __future__ import annotations

from imagebuild.standins import parse_symbols, source, version_script

LISTING = """\
cublasCreate_v2@@libcublas.so.13 T 1000 20
cublasDestroy_v2@libcublas.so.13 U
memcpy U
cublasCreate_v2 U
"""


def test_versions_are_read_with_their_names() -> None:
    assert parse_symbols(LISTING) == {
        "cublasCreate_v2": "libcublas.so.13",
        "cublasDestroy_v2": "libcublas.so.13",
        "memcpy": "",
    }


def test_name_listed_with_and_without_a_version_takes_the_version_in_either_order() -> None:
    lines = ["name U\n", "name@V1 U\n"]
    assert parse_symbols("".join(lines)) == parse_symbols("".join(reversed(lines))) == {"name": "V1"}


def test_version_script_groups_names_and_leaves_out_those_without_a_version() -> None:
    script = version_script({"b": "V1", "a": "V1", "c": "V2", "d": ""})
    assert script == "V1 { global: a; b; };\nV2 { global: c; };\n"


def test_source_is_the_same_for_the_same_names_in_any_order() -> None:
    assert source(["b", "a"]) == source(["a", "b"])
    assert source(["a"]) == "int a(void) { return 1; }\n"
