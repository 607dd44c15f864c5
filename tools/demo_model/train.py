"""Train the demo model from nothing and write it as a GGUF file.

    cd tools && python -m demo_model.train --out ../models/dure-demo.gguf --seed 0

Knows the tokenizer's training, the Qwen3 architecture in torch, the optimizer and the GGUF keys.
Refuses to know what the text says: that is `corpus`.

What makes it repeatable: the text of step n depends only on the seed and n, weights come from a
generator seeded with the seed, torch runs two threads with deterministic algorithms only, and no
date or path is written.  The same versions of torch, tokenizers and gguf on the same kind of CPU
give the same bytes; a CPU with other vector instructions rounds differently and gives a model that
is as good but not identical.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional

from demo_model.corpus import CHAT_TEMPLATE, write_document, write_drill

N_VOCAB = 2048
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXT_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
RESERVED_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(9))
ADDED_TOKENS = CONTROL_TOKENS + TEXT_TOKENS + RESERVED_TOKENS
# The splitting rule that llama.cpp applies for `tokenizer.ggml.pre = "qwen2"`.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ROW_LENGTHS = (256, 512, 512, 1024)
TOKENS_PER_STEP = 4096
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 80
DECAY_SHARE = 0.3
DRILL_STEPS = (775, 1300)
PROMPT_WEIGHT = 0.1


@dataclass(frozen=True)
class Shape:
    """The dimensions of the model, named as in GGUF."""

    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 8
    n_head_kv: int = 4
    n_head_dim: int = 32
    n_ff: int = 768
    n_ctx: int = 2048
    rope_base: float = 10000.0
    rms_eps: float = 1e-6

    @classmethod
    def of(cls, width: int, n_layer: int) -> Shape:
        """A wider or deeper model: heads as large as before, so there are more of them."""
        n_head = width // cls.n_head_dim
        return cls(width, n_layer, n_head, n_head // 2, n_ff=3 * width)


class Rope(nn.Module):
    """Rotary positions in the NEOX order: dimension i turns with dimension i + half."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        half = torch.arange(0, shape.n_head_dim, 2).double() / shape.n_head_dim
        angles = torch.outer(torch.arange(shape.n_ctx).double(), shape.rope_base**-half)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, head, token, head_dim], of the same shape when returned."""
        cos, sin = self.cos[: x.shape[-2]], self.sin[: x.shape[-2]]  # type: ignore[index]
        a, b = x.float().chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Layer(nn.Module):
    """One Qwen3 layer; the names of its parts are those of the GGUF tensors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        n_q, n_kv = shape.n_head * shape.n_head_dim, shape.n_head_kv * shape.n_head_dim
        self.attn_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        self.attn_q = nn.Linear(shape.n_embd, n_q, bias=False)
        self.attn_k = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.attn_v = nn.Linear(shape.n_embd, n_kv, bias=False)
        self.attn_q_norm = nn.RMSNorm(shape.n_head_dim, shape.rms_eps)
        self.attn_k_norm = nn.RMSNorm(shape.n_head_dim, shape.rms_eps)
        self.attn_output = nn.Linear(n_q, shape.n_embd, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        self.ffn_gate = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_up = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)

    def attention(self, x: Tensor, rope: Rope) -> Tensor:
        """x: [batch, token, n_embd]; causal attention of grouped queries."""
        batch, tokens, _ = x.shape
        size = self.shape.n_head_dim

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, tokens, count, size).transpose(1, 2)

        q = rope(self.attn_q_norm(heads(self.attn_q(x), self.shape.n_head).float()))
        k = rope(self.attn_k_norm(heads(self.attn_k(x), self.shape.n_head_kv).float()))
        v = heads(self.attn_v(x), self.shape.n_head_kv)
        group = self.shape.n_head // self.shape.n_head_kv
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = functional.scaled_dot_product_attention(
            q.to(v.dtype), k.to(v.dtype), v, is_causal=True
        )
        out = out.transpose(1, 2).reshape(batch, tokens, -1)
        return functional.linear(out, self.attn_output.weight)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """x: [batch, token, n_embd], of the same shape when returned."""
        x = x + self.attention(self.attn_norm(x), rope)
        y = self.ffn_norm(x)
        y = functional.silu(self.ffn_gate(y)) * self.ffn_up(y)
        return x + functional.linear(y, self.ffn_down.weight)


class Model(nn.Module):
    """Qwen3 with tied embeddings."""

    def __init__(self, shape: Shape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(N_VOCAB, shape.n_embd)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, shape.rms_eps)
        self.rope = Rope(shape)
        source = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("attn_output.weight", "ffn_down.weight"))
                std = 0.02 / math.sqrt(2 * shape.n_layer) if residual else 0.02
                nn.init.normal_(weight, std=std, generator=source)

    def forward(self, ids: Tensor) -> Tensor:
        """ids: int64 [batch, token]; returns logits [batch, token, N_VOCAB]."""
        x = self.token_embd(ids)
        for layer in self.blk:
            x = layer(x, self.rope)
        return functional.linear(self.output_norm(x), self.token_embd.weight)


def train_tokenizer(seed: int, documents: int = 6000) -> Tokenizer:
    """A byte-level BPE of N_VOCAB tokens; the added tokens are the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - len(ADDED_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (write_document(random.Random(f"{seed}/words/{i}")) for i in range(documents))
    unmarked = (text.replace("<|im_start|>", " ").replace("<|im_end|>", " ") for text in texts)
    tokenizer.train_from_iterator(unmarked, trainer)
    tokenizer.add_tokens(
        [AddedToken(t, special=t not in TEXT_TOKENS, normalized=False) for t in ADDED_TOKENS]
    )
    if tokenizer.get_vocab_size() != N_VOCAB:
        raise SystemExit(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, not {N_VOCAB}")
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that the tokenizer has."""
    return tokenizer.encode(token).ids[0]


class Batches:
    """Rows of whole documents, padded; the batch of a step depends on the seed and step only."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.seed = seed
        self.end, self.start, self.stop = (id_of(tokenizer, token) for token in CONTROL_TOKENS)
        self.assistant = tokenizer.encode("assistant\n").ids

    def weights(self, ids: list[int]) -> list[float]:
        """The loss weight of each token as a target: 1, but less for what others say in a chat."""
        if ids[0] != self.start:
            return [1.0] * len(ids)
        weights, answering = [], False
        for i, token in enumerate(ids):
            if token == self.start:
                answering = ids[i + 1 : i + 1 + len(self.assistant)] == self.assistant
            weights.append(1.0 if answering else PROMPT_WEIGHT)
            if token == self.stop:
                answering = False
        return weights

    def rows(
        self, source: random.Random, length: int, count: int, drill: float
    ) -> Iterator[list[int]]:
        """`count` rows of at most length + 1 tokens, each beginning with a new document."""
        waiting: list[list[int]] = []
        for _ in range(count):
            row: list[int] = []
            while len(row) < length:
                while len(waiting) < 12:
                    waiting.append(self.document(source, length + 1, drill))
                room = length + 1 - len(row)
                fitting = [i for i, ids in enumerate(waiting) if len(ids) <= room]
                if not fitting:
                    break
                row += waiting.pop(fitting[0])
            yield row

    def document(self, source: random.Random, longest: int, drill: float) -> list[int]:
        """A document of at most `longest` tokens with its end token."""
        while True:
            write = write_drill if drill and source.random() < drill else write_document
            ids: list[int] = self.tokenizer.encode(write(source)).ids
            if len(ids) < longest:
                return [*ids, self.end]

    def batch(self, name: str, drill: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets (int64) and loss weights (float32), each [row, token].

        `drill` is the share of documents that only ask for copying.
        """
        source = random.Random(f"{self.seed}/{name}")
        length = source.choice(ROW_LENGTHS)
        count = TOKENS_PER_STEP // length
        ids = torch.full((count, length + 1), self.end)
        weights = torch.zeros(count, length + 1)
        for i, row in enumerate(self.rows(source, length, count, drill)):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, : len(row)] = torch.tensor(self.row_weights(row))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()

    def row_weights(self, row: list[int]) -> list[float]:
        """The weights of a row of several documents."""
        weights: list[float] = []
        document: list[int] = []
        for token in row:
            document.append(token)
            if token == self.end:
                weights += self.weights(document)
                document = []
        return weights


def loss_of(model: Model, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The mean cross entropy in nats per token, weighted."""
    inputs, targets, weights = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
    losses = functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    )
    return (losses * weights.flatten()).sum() / weights.sum()


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, a plateau, and a linear decay to a fiftieth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LEARNING_RATE * (step + 1) / WARMUP_STEPS
    left = (steps - step) / max(1, steps - decay_start(steps))
    return PEAK_LEARNING_RATE * max(0.02, min(1.0, left))


def drill_share(step: int) -> float:
    """Copying is drilled once the sentences are known: it does not come by itself so early."""
    return 0.5 if DRILL_STEPS[0] <= step < DRILL_STEPS[1] else 0.0


def decay_start(steps: int) -> int:
    """The step at which the learning rate begins to fall; up to there `steps` changes nothing."""
    return steps - int(DECAY_SHARE * steps)


def make_optimizer(model: Model) -> torch.optim.AdamW:
    """AdamW that lets only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95))


def save_checkpoint(
    path: Path, step: int, run: dict[str, int], model: Model, optimizer: torch.optim.AdamW
) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_name(path.name + ".part")
    state = {"step": step, "run": run, "model": model.state_dict(), "adamw": optimizer.state_dict()}
    torch.save(state, part)
    part.replace(path)


def load_checkpoint(
    path: Path, run: dict[str, int], model: Model, optimizer: torch.optim.AdamW
) -> int:
    """Go on from a checkpoint; returns the next step. Stops when it is of another run.

    A run of another length is the same one as long as neither has begun to decay.
    """
    state = torch.load(path, weights_only=True)
    lengths = (state["run"]["steps"], run["steps"])
    plateau = state["step"] <= min(decay_start(steps) for steps in lengths)
    is_other = any(state["run"].get(key) != value for key, value in run.items() if key != "steps")
    if is_other or (lengths[0] != lengths[1] and not plateau):
        raise SystemExit(f"{path} is of the run {state['run']}, not {run}: name another file")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["adamw"])
    step: int = state["step"]
    return step


def train(model: Model, batches: Batches, args: argparse.Namespace) -> None:
    """Run all steps (those that a checkpoint has not done), reporting on stderr."""
    optimizer = make_optimizer(model)
    run = {"seed": args.seed, "steps": args.steps, "width": args.width, "layers": args.layers}
    first = 0
    if args.checkpoint and args.checkpoint.exists():
        first = load_checkpoint(args.checkpoint, run, model, optimizer)
        print(f"going on from {args.checkpoint} at step {first}", file=sys.stderr)
    began, mean = time.monotonic(), 0.0
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps)
        loss = loss_of(model, batches.batch(f"train/{step}", drill_share(step)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == first else 0.95 * mean + 0.05 * loss.item()
        done = step + 1
        if done % 20 == 0 or done == args.steps:
            eta_s = (time.monotonic() - began) / (done - first) * (args.steps - done)
            print(f"step {done}/{args.steps}  loss {mean:.4f}  {eta_s:.0f} s left", file=sys.stderr)
        if args.checkpoint and (done % args.checkpoint_every == 0 or done == args.steps):
            save_checkpoint(args.checkpoint, done, run, model, optimizer)


def held_out_loss(model: Model, batches: Batches, count: int = 16) -> float:
    """The loss in nats per token on text that no step has seen."""
    with torch.no_grad():
        losses = [loss_of(model, batches.batch(f"held out/{i}")).item() for i in range(count)]
    return sum(losses) / count


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    """Tokens, types, merges, special ids and the chat template."""
    data = json.loads(tokenizer.to_str())["model"]
    kinds = dict.fromkeys(CONTROL_TOKENS + RESERVED_TOKENS, gguf.TokenType.CONTROL)
    kinds |= dict.fromkeys(TEXT_TOKENS, gguf.TokenType.USER_DEFINED)
    tokens = [tokenizer.id_to_token(i) for i in range(N_VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(t, gguf.TokenType.NORMAL) for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in data["merges"]])
    end, _, stop = (id_of(tokenizer, token) for token in CONTROL_TOKENS)
    # llama.cpp takes id 11 where no bos id is stored; this one is never added to a prompt.
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(stop)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_metadata(writer: gguf.GGUFWriter, shape: Shape, n_weights: int) -> None:
    """The general keys and the model's dimensions."""
    writer.add_type("model")
    writer.add_name("dure-demo")
    writer.add_author("the dure authors")
    writer.add_license("apache-2.0")
    writer.add_description("A small model of village stories, trained from nothing for dure.")
    writer.add_size_label(f"{n_weights / 1e6:.1f}M")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(N_VOCAB)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_key_length(shape.n_head_dim)
    writer.add_value_length(shape.n_head_dim)
    writer.add_rope_dimension_count(shape.n_head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.rms_eps)


def write_gguf(path: Path, model: Model, tokenizer: Tokenizer) -> None:
    """Write the model whole or not at all: matrices in F16, norms in F32."""
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, "qwen3")
    add_metadata(writer, model.shape, sum(p.numel() for p in model.parameters()))
    add_tokenizer(writer, tokenizer)
    for name, weight in model.named_parameters():
        dtype = torch.float16 if weight.dim() == 2 else torch.float32
        writer.add_tensor(name, weight.detach().to(dtype).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.replace(path)


def positive(text: str) -> int:
    """An argument that must be a whole number above zero."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return value


def whole_heads(text: str) -> int:
    """An argument that must be the width of a model whose pairs of heads have 32 columns each."""
    value, least = positive(text), 2 * Shape.n_head_dim
    if value % least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of {least}")
    return value


def parse_arguments() -> argparse.Namespace:
    """The command line; a bad argument ends with a line that says which and why."""
    parser = argparse.ArgumentParser(description="Train the demo model and write it as a GGUF.")
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--seed", type=int, default=0, help="the source of all chance (0)")
    parser.add_argument("--steps", type=positive, default=2500, help="steps of 4096 tokens (2500)")
    parser.add_argument("--width", type=whole_heads, default=256, help="of a token's vector (256)")
    parser.add_argument("--layers", type=positive, default=4, help="how many there are (4)")
    parser.add_argument("--checkpoint", type=Path, help="save here; go on from it if it exists")
    parser.add_argument(
        "--checkpoint-every", type=positive, default=200, help="steps between saves (200)"
    )
    args = parser.parse_args()
    for path in (args.out, args.checkpoint):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path}: the folder {path.absolute().parent} does not exist")
        if path is not None and path.is_dir():
            parser.error(f"{path} is a folder, not a file")
    return args


def main() -> None:
    """Train, report, write."""
    args = parse_arguments()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    tokenizer = train_tokenizer(args.seed)
    batches = Batches(tokenizer, args.seed)
    model = Model(Shape.of(args.width, args.layers), args.seed)
    train(model, batches, args)
    print(f"held-out loss {held_out_loss(model, batches):.4f} nats a token", file=sys.stderr)
    write_gguf(args.out, model, tokenizer)
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
