"""Small copies of the pictures that a report shows, found in the data set again.

predictions.jsonl names pictures as the data does: a jsonl file by a path in its images folder, parquet files
as "file:row 17:images[0]". Only what belongs to the run's own data set is opened.
"""

import base64
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image

from phitune_trainer.config import ConfigError, TrainConfig, load_config
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.parquet import ParquetRows, find_files
from phitune_trainer.data.pictures import find_picture, load_picture, read_size
from phitune_trainer.data.tasks import held_out_split
from phitune_trainer.data.tasks.layouts import LAYOUTS
from phitune_trainer.data.tasks.spec import Split
from phitune_trainer.report.thumbnail import Thumbnail

LONGEST: Final = 320
"""Pixels of the longer side; smaller pictures stay as they are."""
MOST_BYTES: Final = 3_000_000
"""Of all pictures of a report before they are written as text, which makes them a third larger."""
_QUALITY: Final = 80
_PLACE: Final = re.compile(r"(?P<file>.+):row (?P<row>\d{1,12}):(?P<name>\S+)", re.DOTALL)


class DataPictures:
    """The pictures of a run's held-out samples."""

    def __init__(self, config: TrainConfig) -> None:
        split = held_out_split(config)
        if split is None:
            raise DataError("the config holds no samples out")
        self._split: Split = split
        self._image_root = config.data_dir / config.data.image_root
        self._files = {path.name: path for path in find_files(config.data_dir, split.files)}
        self._rows: dict[Path, ParquetRows] = {}
        self._num_bytes = 0

    def thumbnail(self, name: str) -> Thumbnail:
        """The picture of that name, if it can be found and there is room for it."""
        if self._num_bytes >= MOST_BYTES:
            return Thumbnail(name, reason="left out to keep this file small")
        try:
            small = shrink(self._find(name))
        except (DataError, OSError) as error:
            return Thumbnail(name, reason=str(error))
        encoded = BytesIO()
        small.save(encoded, "JPEG", quality=_QUALITY)
        self._num_bytes += len(encoded.getvalue())
        text = base64.b64encode(encoded.getvalue()).decode()
        return Thumbnail(name, f"data:image/jpeg;base64,{text}", small.width, small.height)

    def _find(self, name: str) -> Path | bytes:
        if self._split.layout == "jsonl":
            return find_picture(name, self._image_root)
        place = _PLACE.fullmatch(name)
        file = self._files.get(Path(place["file"]).name) if place else None
        if place is None or file is None:
            raise DataError("its file is not part of the data set")
        layout = LAYOUTS[self._split.layout]
        columns = {column: layout.columns[column] for column in layout.picture_columns}
        rows = self._rows.setdefault(file, ParquetRows([file], columns))
        if int(place["row"]) >= len(rows):
            raise DataError("its row is not part of the data set")
        pictures = layout.pictures(rows.read(int(place["row"]), layout.picture_columns))
        named = {layout.picture_name(number): picture for number, picture in enumerate(pictures)}
        if place["name"] not in named:
            raise DataError("its row has no such picture")
        return named[place["name"]]


def thumbnails(config_file: Path, volume: Path, names: Sequence[str]) -> dict[str, Thumbnail]:
    """Each picture by its name; where the run's data set cannot be found on `volume`, why."""
    try:
        config = load_config(config_file)
        on_this_machine = config.run.model_copy(update={"workspace": str(volume)})
        pictures = DataPictures(config.model_copy(update={"run": on_this_machine}))
    except (ConfigError, DataError) as error:
        reason = str(error)
        return {name: Thumbnail(name, reason=reason) for name in names}
    return {name: pictures.thumbnail(name) for name in dict.fromkeys(names)}


def shrink(source: Path | bytes) -> Image.Image:
    """A picture with its longer side at most LONGEST pixels, as the trainer decodes it. Raises DataError."""
    width, height = read_size(source)
    side = min(LONGEST, max(width, height))
    padded = load_picture(source, num_crops=1, crop_size=side).numpy()
    # One crop is a square with the picture in its middle: cut off what was added.
    short = max(1, side * min(width, height) // max(width, height))
    first = (side - short) // 2
    inner = padded[first : first + short] if width >= height else padded[:, first : first + short]
    return Image.fromarray(inner)
