"""What `phitune predict` does with an adapter that nothing tells the base model of."""

import json
from pathlib import Path

import pytest

from phitune_cli.main import main


def test_the_base_that_an_adapter_does_not_name_can_be_named_as_the_message_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "team/elsewhere"}))
    asked = ["predict", "--model", str(tmp_path), "--prompt", "Why?"]
    assert main(asked) == 2
    assert "is an adapter, and does not say where its base model lies; name that one too (--base)" in (
        capsys.readouterr().err
    )
    assert main([*asked, "--base", str(tmp_path / "no-model")]) == 2
    assert "no-model" in capsys.readouterr().err


def test_an_adapter_and_a_base_beside_a_model_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model", "a", "--adapter", "b", "--base", "c", "--prompt", "Why?"])
    assert ended.value.code == 2
    assert "not allowed with argument --adapter" in capsys.readouterr().err
