"""Taking a cluster's files away."""

from localkube.down import remove_tree


def test_a_folder_is_removed_with_all_in_it_and_nothing_that_it_points_to(tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "precious").write_text("x")
    tree = tmp_path / "tree"
    for number in range(30):
        folder = tree / str(number) / "deep"
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
        (folder / "link").symlink_to(kept)
    (tree / "dangling").symlink_to(tmp_path / "nowhere")
    remove_tree(tree)
    assert not tree.exists()
    assert (kept / "precious").exists()
