"""A small language model and text for it, to train in seconds."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

__all__ = ["SmallModel", "batch", "evaluation_loss", "text_ids"]

N_IDS, CONTEXT, WIDTH = 96, 12, 16
NAMES = ("Mina", "Jun", "Sora", "Haru", "Bora", "Noah", "Ada", "Kofi")
THINGS = ("a goat", "the old lamp", "seven apples", "a red kite", "the plough", "a bag of rice")
PLACES = ("at the mill", "by the river", "in the barn", "on the hill", "near the well")


def text_ids(n_sentences: int, seed: int) -> Tensor:
    """Return the characters of generated sentences: int64 [n], each below `N_IDS`."""
    chance = random.Random(seed)
    sentences = (
        f"{chance.choice(NAMES)} saw {chance.choice(THINGS)} {chance.choice(PLACES)} "
        f"and counted {chance.randint(1, 40)} birds.\n"
        for _ in range(n_sentences)
    )
    return torch.tensor([0 if c == "\n" else ord(c) - 31 for c in "".join(sentences)])


def batch(ids: Tensor, seed: int, size: int = 128) -> Tensor:
    """Return a batch of windows: int64 [size, CONTEXT + 1]."""
    chance = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(ids) - CONTEXT - 1, (size, 1), generator=chance)
    return ids[starts + torch.arange(CONTEXT + 1)]


class SmallModel(nn.Module):
    """A language model after Bengio et al. (2003): the next character from the last ones' embeddings."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(N_IDS, WIDTH)
        self.inner = nn.Sequential(
            nn.Linear(CONTEXT * WIDTH, 192),
            nn.LayerNorm(192),
            nn.GELU(),
            nn.Linear(192, 192),
            nn.GELU(),
            nn.Linear(192, N_IDS),
        )
        self.to(dtype)

    def loss(self, windows: Tensor) -> Tensor:
        """Return the mean cross entropy of the last characters of windows."""
        logits = self.inner(self.embedding(windows[:, :-1]).flatten(1))
        return nn.functional.cross_entropy(logits.float(), windows[:, -1])


@torch.no_grad()
def evaluation_loss(model: SmallModel) -> float:
    """Return the loss on sentences that no training has seen."""
    return model.loss(batch(text_ids(400, seed=1), seed=0, size=4096)).item()
