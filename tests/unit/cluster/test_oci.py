"""OCI archives that are written here, and cut."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from localkube import oci
from localkube.console import ClusterError
from localkube.oci import File, Folder, Link

NAME = "localhost/thing:1"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image with one program of 1 MB."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF" + bytes(1_000_000))
    target = tmp_path / "thing.tar"
    entries = [File("bin/thing", program), Folder("tmp", 0o1777), Link("bin/other", "thing")]
    oci.write_archive(target, NAME, entries, {"Entrypoint": ["/bin/thing"], "User": "65532:65532"})
    return target


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def cut(path: Path, held: frozenset[str]) -> tuple[int, dict[str, bytes]]:
    output = io.BytesIO()
    with oci.open_archive(path) as opened:
        size = opened.write_without(held, output)
    with tarfile.open(fileobj=io.BytesIO(output.getvalue())) as tar:
        return size, {member.name: tar.extractfile(member).read() for member in tar}


def test_every_blob_is_named_by_its_content(archive):
    blobs = {name: content for name, content in contents(archive).items() if name.startswith("blobs/")}
    assert len(blobs) == 3
    for name, content in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def test_index_manifest_configuration_and_layer_lead_to_each_other(archive):
    files = contents(archive)
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {oci.NAME_ANNOTATION: NAME}
    manifest = json.loads(files[oci.blob_path(entry["digest"])])
    config = json.loads(files[oci.blob_path(manifest["config"]["digest"])])
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["Entrypoint"] == ["/bin/thing"]
    assert layer["size"] == len(files[oci.blob_path(layer["digest"])])


def test_the_layer_keeps_modes_links_and_content(archive):
    files = contents(archive)
    largest = max(files.values(), key=len)
    with tarfile.open(fileobj=io.BytesIO(largest)) as layer:
        members = {member.name: member for member in layer}
        assert layer.extractfile("bin/thing").read(4) == b"\x7fELF"
    assert {name: oct(member.mode) for name, member in members.items()} == {
        "bin/thing": "0o755",
        "tmp": "0o1777",
        "bin/other": "0o777",
    }
    assert (members["tmp"].isdir(), members["bin/other"].linkname) == (True, "thing")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"program")
    made = []
    for name in ("a.tar", "b.tar"):
        oci.write_archive(tmp_path / name, NAME, [File("program", program)], {})
        made.append((tmp_path / name).read_bytes())
        program.touch()
    assert made[0] == made[1]


def test_nothing_is_left_beside_the_archive(archive):
    assert sorted(path.name for path in archive.parent.iterdir()) == ["program", "thing.tar"]


def test_an_archive_is_cut_to_what_a_node_lacks(archive):
    layer = max(contents(archive), key=lambda name: len(contents(archive)[name]))
    size, files = cut(archive, frozenset({layer.removeprefix("blobs/").replace("/", ":")}))
    assert layer not in files
    assert size < 10_000
    assert len([name for name in files if name.startswith("blobs/")]) == 2


def test_manifests_are_sent_even_if_a_node_has_them(archive):
    held = frozenset(name.removeprefix("blobs/").replace("/", ":") for name in contents(archive))
    _, files = cut(archive, held)
    assert len([name for name in files if name.startswith("blobs/")]) == 2


def test_nothing_is_cut_for_an_empty_node(archive):
    _, files = cut(archive, frozenset())
    assert files.keys() == contents(archive).keys()


def test_a_compressed_archive_is_read(archive, tmp_path):
    compressed = tmp_path / "thing.tar.gz"
    compressed.write_bytes(gzip.compress(archive.read_bytes()))
    with oci.open_archive(compressed) as opened:
        assert list(opened.images) == [NAME]


def test_the_name_is_taken_from_where_buildah_writes_it():
    index = {"manifests": [{"digest": "sha256:1", "annotations": {oci.REFERENCE_ANNOTATION: NAME}}]}
    (entry,) = oci.named_index(index, Path("x.tar"), None)["manifests"]
    assert entry["annotations"][oci.NAME_ANNOTATION] == NAME


def test_a_given_name_replaces_it():
    index = {"manifests": [{"digest": "sha256:1", "annotations": {oci.NAME_ANNOTATION: NAME}}]}
    (entry,) = oci.named_index(index, Path("x.tar"), "localhost/other:2")["manifests"]
    assert entry["annotations"][oci.NAME_ANNOTATION] == "localhost/other:2"


def test_one_name_for_several_images_is_refused():
    with pytest.raises(ClusterError, match="holds 2 images"):
        oci.named_index({"manifests": [{}, {}]}, Path("x.tar"), NAME)


@pytest.mark.parametrize(
    ("name", "is_full"),
    [
        ("localhost/a:1", True),
        ("localhost/a/b:dev", True),
        ("registry.example.com/a/b:1.0", True),
        ("registry:5000/a:1", True),
        ("localhost/a", False),
        ("a:1", False),
        ("library/a:1", False),
        ("latest", False),
        ("", False),
    ],
)
def test_a_full_name_has_a_registry_and_a_tag(name, is_full):
    assert oci.is_full_name(name) is is_full


def test_an_image_without_a_full_name_is_refused_with_the_remedy(tmp_path):
    index = {"manifests": [{"digest": "sha256:1", "annotations": {oci.REFERENCE_ANNOTATION: "dev"}}]}
    with pytest.raises(ClusterError, match=r"'dev' is not full\. Give --image localhost/NAME:TAG"):
        oci.named_index(index, tmp_path / "x.tar", None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(b"text", "not a tar archive", id="no tar"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content, problem):
    path = tmp_path / "x.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClusterError, match=problem), oci.open_archive(path):
        pass


def test_a_docker_archive_is_refused_with_the_way_to_make_an_oci_one(tmp_path):
    path = tmp_path / "docker.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(ClusterError, match="buildah push IMAGE oci-archive"), oci.open_archive(path):
        pass
