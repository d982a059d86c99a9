"""How many crops of a picture exported weights were trained with: asked with others, they answer otherwise.

In `preprocessor_config.json`, where readers of the published layout look. The published model's own file has
its publisher's default there, which says nothing of a training, so phitune.json has the number as well: it is
what is read here.
"""

from pathlib import Path
from typing import Final

from phitune_trainer.methods.adapter_folder import ABOUT
from phitune_trainer.model_config import ModelFilesError, read_json
from phitune_trainer.tokenizer import write_json

_KEY: Final = "numCrops"
_MOST: Final = 16
_SETTINGS: Final = "preprocessor_config.json"
_THEIR_KEY: Final = "num_crops"


def write_settings(folder: Path, base: Path, num_crops: int) -> None:
    """Give an export its base model's settings for pictures, with this number of crops.

    A file that has the number is left as it is, to the byte. ModelFilesError where the base has none.
    """
    settings = read_json(base / _SETTINGS)
    if settings.get(_THEIR_KEY) == num_crops and (folder / _SETTINGS).is_file():
        return
    write_json(folder / _SETTINGS, {**settings, _THEIR_KEY: num_crops})


def about_crops(num_crops: int | None) -> dict[str, int]:
    """What phitune.json says of them."""
    return {} if num_crops is None else {_KEY: num_crops}


def trained_crops(folder: Path) -> int | None:
    """Most crops of a picture in the training of what a folder holds; None where it does not say.

    ModelFilesError where what it says cannot be read.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    num_crops = read_json(path).get(_KEY)
    if num_crops is not None and (type(num_crops) is not int or not 1 <= num_crops <= _MOST):
        raise ModelFilesError(
            f"{path}: {_KEY} must be a whole number from 1 to {_MOST}, got {num_crops!r}; copy it again"
        )
    return num_crops
