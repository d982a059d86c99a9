"""A jsonl file as a sequence of samples, read one line at a time."""

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

from phitune_trainer.data.conversation import Conversation, Examined, examine_conversation, unreadable
from phitune_trainer.data.dataset import Identity, digest_of
from phitune_trainer.data.errors import DataError
from phitune_trainer.data.processor import Processor
from phitune_trainer.errors import raise_if_out_of_reach
from phitune_trainer.model import Sample

MAX_LINE_BYTES = 16 * 2**20
"""Of a line with its end. A file without line ends would otherwise be read into memory whole."""


class JsonlDataset:
    """The samples of a jsonl file that are at most `max_length` tokens long; to train on, or to score.

    Every turn of a sample is trained, and its last turn is what is scored. All lines are checked when it is
    made; pictures are decoded when a sample is taken. It holds the places of
    the lines, not the lines. Every error is a DataError that names file and line.
    """

    def __init__(self, file: Path, image_root: Path, processor: Processor, max_length: int) -> None:
        self._file = file
        self._image_root = image_root
        self._processor = processor
        self._offsets = array("q")
        self._numbers = array("q")
        self.num_skipped = 0
        """Samples left out because they are longer than `max_length`."""
        for number, offset, conversation in read_conversations(file):
            with located(f"{file}:{number}"):
                processor.refuse_special_tokens(conversation)
                may_be_too_long = processor.most_tokens(conversation) > max_length
                if may_be_too_long and processor.num_tokens(conversation, image_root) > max_length:
                    self.num_skipped += 1
                    continue
            self._offsets.append(offset)
            self._numbers.append(number)
        if not self._offsets:
            what = f"all {self.num_skipped} samples are longer than {max_length} tokens; raise maxLength"
            raise DataError(f"{file}: {what if self.num_skipped else 'has no samples'}")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """A sample with its answers labelled and its pictures decoded."""
        return self._encode(index, self._processor.encode)

    def prompt(self, index: int) -> Sample:
        """A sample up to its last answer, which is left out: what the model is given to answer."""
        return self._encode(index, self._processor.encode_prompt)

    def question(self, index: int) -> str:
        """All texts of a sample but its last answer, a line or more each."""
        texts = [text for turn in self._conversation(index).turns for text in (turn.user, turn.assistant)]
        return "\n".join(texts[:-1])

    def answers(self, index: int) -> tuple[str, ...]:
        """The last answer of a sample: the only one that is accepted."""
        return (self._conversation(index).turns[-1].assistant,)

    def group(self, index: int) -> str:
        """Nothing: each sample is scored by itself."""
        return ""

    def pictures(self, index: int) -> tuple[str, ...]:
        """Names of the pictures of a sample, relative to the images folder."""
        return self._conversation(index).images

    def identity(self) -> Identity:
        """Number of samples, size of the file, and a digest of the places of the lines."""
        return {
            "samples": len(self),
            "left out": self.num_skipped,
            f"bytes of {self._file.name}": self._file.stat().st_size,
            "places of the lines (digest)": digest_of(self._offsets),
        }

    def where(self, index: int) -> str:
        """The place of a sample, as "file:line"."""
        return f"{self._file}:{self._numbers[index]}"

    def _encode(self, index: int, encode: Callable[[Conversation, Path], Sample]) -> Sample:
        conversation = self._conversation(index)
        with located(self.where(index)):
            return replace(encode(conversation, self._image_root), where=self.where(index))

    def _conversation(self, index: int) -> Conversation:
        with self._file.open("rb") as file:
            file.seek(self._offsets[index])
            line = file.readline(MAX_LINE_BYTES + 1)
        with located(self.where(index)):
            return _parse(line)


def read_lines(file: Path) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a jsonl file that are not blank: number (from 1), offset in bytes, content.

    Of a line that is too long only so much is given that `examine_line` sees it. Raises DataError that names
    the file.
    """
    try:
        with file.open("rb") as lines:
            for number in count(1):
                offset = lines.tell()
                if not (line := lines.readline(MAX_LINE_BYTES + 1)):
                    return
                is_too_long = len(line) > MAX_LINE_BYTES
                if is_too_long or line.strip():
                    yield number, offset, line
                rest = line
                while is_too_long and rest and not rest.endswith(b"\n"):
                    rest = lines.readline(MAX_LINE_BYTES)
    except OSError as error:
        raise_if_out_of_reach(error, file)
        raise DataError(
            f"{file}: cannot be read: {error.strerror}; a jsonl file of samples was expected"
        ) from error


def examine_line(line: bytes) -> Examined:
    """What a line holds, and everything that is wrong with its form."""
    if len(line) > MAX_LINE_BYTES:
        return unreadable(
            f"longer than {MAX_LINE_BYTES:,} bytes; each line must be one sample, with its pictures in files"
        )
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return unreadable(f"not UTF-8: {error.reason} at byte {error.start}")
    return examine_conversation(text)


def read_conversations(file: Path) -> Iterator[tuple[int, int, Conversation]]:
    """As `read_lines`, each line as a conversation. Raises DataError that names file and line."""
    for number, offset, line in read_lines(file):
        with located(f"{file}:{number}"):
            yield number, offset, _parse(line)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Put the place in front of the message of a DataError."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _parse(line: bytes) -> Conversation:
    examined = examine_line(line)
    if examined.problems:
        raise DataError(examined.problems[0])
    return examined.conversation
