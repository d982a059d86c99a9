"""How probable the model holds each of a few given answers: what AUROC is computed from."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from phitune_trainer.model.answering import answering
from phitune_trainer.model.inputs import IGNORED, Branch, Sample, collate
from phitune_trainer.model.phi3v import Phi3V


def choice_log_probabilities(
    model: Phi3V,
    prompts: Sequence[Sample],
    choices: Sequence[Sequence[int]],
    *,
    embedded: Sequence[Tensor] = (),
) -> Tensor:
    """Log probability of each choice after each prompt: natural, (prompts, choices), float32, on the CPU.

    A choice is the token ids of a whole answer, its end token included if its end is to count; its value is
    the sum over its tokens, each given those before it. Every choice is scored as if alone; the prompt is
    computed once where that changes nothing. Labels of the prompts are not looked at. `embedded`: what the
    vision part makes of each of their pictures, where that is known. The model is in evaluation mode
    meanwhile.
    """
    ends = [torch.tensor(list(choice), dtype=torch.int64) for choice in choices]
    branches = tuple(Branch(input_ids=ids, labels=ids) for ids in ends)
    whole = [
        replace(prompt, labels=torch.full_like(prompt.labels, IGNORED), branches=branches)
        for prompt in prompts
    ]
    batch = collate(whole, original_max_positions=model.model_config.original_max_positions)
    batch = replace(batch, embedded=tuple(embedded)).to(model.lm_head.weight.device)
    with answering(model):
        logits = model.lm_head(model.hidden_states(batch)[batch.label_positions]).float()
    of_labels = logits.log_softmax(dim=-1).gather(1, batch.labels[:, None])[:, 0].cpu()
    lengths = [len(ids) for _ in prompts for ids in ends]
    sums = [part.sum() for part in of_labels.split(lengths)]
    return torch.stack(sums).view(len(prompts), len(ends)) if sums else torch.zeros(len(prompts), len(ends))
