"""Where the pixels of a picture end up in the sequence."""

import pytest
import torch

from harness.tiny_models import CROP, picture, small_model
from phitune_trainer.model.pixels import CLIP_MEAN, CLIP_STD, crops_of
from phitune_trainer.model.vision import merge_patches
from phitune_trainer.model_config import VisionConfig

torch.set_num_threads(1)


@pytest.mark.parametrize(("grid", "tokens"), [((2, 2), 757), ((2, 1), 469), ((4, 4), 2509), ((1, 1), 313)])
def test_a_picture_takes_as_many_tokens_as_published(grid: tuple[int, int], tokens: int) -> None:
    assert VisionConfig().image_tokens(*grid) == tokens


def test_crops_are_the_whole_picture_and_then_its_parts_by_rows() -> None:
    colours = torch.arange(6, dtype=torch.uint8).reshape(2, 3) * 40
    flat = colours.repeat_interleave(CROP, 0).repeat_interleave(CROP, 1)[..., None].expand(-1, -1, 3)
    crops = crops_of(flat.contiguous(), CROP)
    assert crops.shape == (7, 3, CROP, CROP)
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    for crop, colour in zip(crops[1:], colours.flatten().tolist(), strict=True):
        expected = ((colour / 255 - mean) / std)[:, None, None].expand_as(crop)
        torch.testing.assert_close(crop, expected)
    assert crops[0, 0, 0, 0] == crops[1, 0, 0, 0], (
        "the top left of the whole picture is that of its first crop"
    )
    assert crops[0, 0, -1, -1] == crops[6, 0, -1, -1]


def test_patches_merge_two_by_two_in_the_order_row_column_channel() -> None:
    features = torch.tensor([[[y, x] for y in range(4) for x in range(4)]])
    merged = merge_patches(features)
    assert merged.shape == (1, 2, 2, 8)
    assert merged[0, 1, 0].tolist() == [2, 0, 2, 1, 3, 0, 3, 1]


def test_rows_of_crops_come_first_then_the_global_view_each_row_with_its_end() -> None:
    vision = small_model().model.vision_embed_tokens
    end, middle = vision.sub_GN.flatten(), vision.glb_GN.flatten()
    width = len(end)
    crops = torch.arange(5.0)[:, None, None, None].expand(5, 1, 1, width)
    rows = vision._lay_out(crops, (2, 2))
    expected = [1, 2, end, 3, 4, end, middle, 0, end]
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert torch.equal(
            row, wanted if isinstance(wanted, torch.Tensor) else torch.full((width,), float(wanted))
        )


def test_the_crops_of_one_picture_do_not_depend_on_the_others() -> None:
    vision = small_model().model.vision_embed_tokens
    pictures = [picture(2, 1, seed=1), picture(1, 1, seed=2)]
    with torch.no_grad():
        together = vision(pictures)
        alone = torch.cat([vision([one]) for one in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
