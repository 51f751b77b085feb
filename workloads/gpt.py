"""Train a small character-level GPT with DistributedDataParallel on a text file, and let it write.

    orch run gpt -- --text notes.txt

The model is a small GPT-2: pre-norm blocks of causal self-attention and a feed-forward layer, learned positions,
and an output layer that shares its weights with the embedding (Radford et al. 2019; sizes as in karpathy/minGPT).
Every node keeps a ``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (one line for each evaluation) and
``loss.png``. Without ``--text`` the script reads the source of Python's own argparse, about 100 KB that every
machine has. Runs under ``orch run gpt``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _ranks import Ranks, add_backend, add_learning, data_file, parsed, refuse
from _records import Snapshots, Tally, add_records, plot_curves, write_metrics
from torch import Tensor, nn

# orch reads this without importing this file, and sends the file that --text names (docs/workloads.md).
NEEDS_DATA = [{"file": "--text"}]


def main() -> None:
    """Train on all ranks, then let the model write on rank 0."""
    options = parse_options()
    text = inspect.getsource(argparse) if options.text is None else read(data_file(options.text, "--text"))
    if len(text) < 20 * options.block:
        refuse(f"--text {options.text}: {len(text)} characters are too few for blocks of {options.block}")
    with Ranks(options.backend) as ranks:
        # Ranks with other texts would train other models without noticing, or fail much later.
        if len(set(ranks.gathered(hashlib.sha256(text.encode()).hexdigest()))) > 1:
            refuse("the text is not the same on all nodes: send one with orch sync --data and name it with --text")
        training = Training(options, ranks, text)
        training.run()
        if ranks.rank == 0:
            print(training.written(options.sample), flush=True)
        training.tally.summarise(ranks)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="file to learn, in UTF-8")
    parser.add_argument("--steps", type=int, default=600)
    add_learning(parser, batch_size=16, lr=2e-3, batch="blocks per rank")
    parser.add_argument("--block", type=int, default=64, help="characters that the model sees at once")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=96, help="width of the embedding, a multiple of --heads")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--evaluate-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--sample", type=int, default=300, help="characters to write at the end")
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    add_records(parser)
    options = parsed(parser)
    if options.width % options.heads:
        refuse(f"--width {options.width} is not a multiple of --heads {options.heads}")
    return options


def read(path: Path) -> str:
    """Return the text to learn; ends the process with a line if it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"--text {path} cannot be read: {error}")


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to its input.

    Input and output have the shape ``(batch, time, width)``.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the same shape as its input."""
        batch, time, width = x.shape
        query, key, value = (
            part.view(batch, time, self.heads, -1).transpose(1, 2)
            for part in self.attention(self.attention_norm(x)).chunk(3, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        x = x + self.projection(seen.transpose(1, 2).reshape(batch, time, width))
        return x + self.feed(self.feed_norm(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Predicts the next character at each position.

    Input: characters ``(batch, time)``, where time is at most ``--block``.
    Output: logits ``(batch, time, characters)``.
    """

    def __init__(self, characters: int, options: argparse.Namespace) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, options.width)
        self.positions = nn.Embedding(options.block, options.width)
        blocks = [Block(options.width, options.heads, options.dropout) for _ in range(options.layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(options.width)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        for block in blocks:
            # Each block adds to its input; smaller weights here keep the sum from growing with the layers (GPT-2).
            nn.init.normal_(block.projection.weight, std=0.02 / math.sqrt(2 * options.layers))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        places = torch.arange(indices.shape[1], device=indices.device)
        x = self.blocks(self.characters(indices) + self.positions(places))
        return F.linear(self.norm(x), self.characters.weight)


class Training:
    """One rank's part of the training. The last tenth of the text is held out for evaluation."""

    def __init__(self, options: argparse.Namespace, ranks: Ranks, text: str) -> None:
        self.options, self.ranks = options, ranks
        self.tally = Tally("characters")
        self.alphabet = sorted(set(text))
        index = {character: number for number, character in enumerate(self.alphabet)}
        data = torch.tensor([index[character] for character in text])
        held_out = max(len(data) // 10, options.block + 1)
        self.train_data, self.test_data = data[:-held_out], data[-held_out:]
        # The same first parameters on all ranks, and on any number of ranks.
        torch.manual_seed(options.seed)
        self.model = GPT(len(self.alphabet), options).to(ranks.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr, betas=(0.9, 0.99))
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        # Sum of losses and number of updates since the last evaluation, on this rank.
        self.trained = torch.zeros(2, dtype=torch.float64)
        self.rows: list[dict[str, Any]] = []
        self.resume()
        # Train with the wrapped model, and save the inner one: names of the wrapped model's parameters begin with
        # "module.", so its snapshots would not fit a single process.
        self.parallel = ranks.parallel(self.model)

    def run(self) -> None:
        """Train the remaining steps; evaluate every ``--evaluate-every`` steps and at the end."""
        options, ranks = self.options, self.ranks
        ranks.introduce()
        ranks.say(
            f"{len(self.train_data) + len(self.test_data)} characters of {len(self.alphabet)} kinds, "
            f"unigram entropy {self.unigram_entropy():.3f}; "
            f"{sum(each.numel() for each in self.model.parameters())} parameters"
        )
        began = time.monotonic()
        with self.snapshots.guarding(self.state):
            while True:
                if self.evaluation_due():
                    self.report(time.monotonic() - began)
                    began = time.monotonic()
                if self.step >= options.steps:
                    break
                self.snapshots.poll(self.state)
                self.trained += torch.tensor([self.update(), 1.0])
                self.step += 1
        if ranks.rank == 0 and self.rows:
            panels = {
                "Cross entropy, nats a character": ["train_loss", "test_loss", "unigram_entropy"],
                "Characters/s": ["characters_per_second"],
            }
            plot_curves(options.output_dir / "loss.png", self.rows, "step", panels)

    def evaluation_due(self) -> bool:
        """Return whether the evaluation at the current step is due and not done yet."""
        done = bool(self.rows) and self.rows[-1]["step"] >= self.step
        last = self.step >= self.options.steps
        return not done and self.step > 0 and (last or self.step % self.options.evaluate_every == 0)

    def update(self) -> float:
        """Train one step on this rank's share of random blocks; return the loss on this rank."""
        self.parallel.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        inputs, targets = self.blocks_of(self.step)
        logits = self.parallel(inputs)
        # All shares have the same size, so the mean that DDP takes over the ranks is the mean over the batch.
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # The gradients are the same on all ranks by now, so every rank clips them alike.
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def learning_rate(self) -> float:
        """Return the learning rate of the current step.

        It rises during the first twentieth of the steps, then falls along a cosine to a tenth.
        """
        warm = max(1, self.options.steps // 20)
        done = max(0.0, (self.step - warm) / max(1, self.options.steps - warm))
        up = min(1.0, (self.step + 1) / warm)
        return float(self.options.lr * up * (0.1 + 0.45 * (1 + math.cos(math.pi * done))))

    def blocks_of(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this rank's share of a step's random blocks, and for each the same block one character later.

        Seed and step alone determine the blocks, so a resumed run trains on the blocks that it would have trained
        on.
        """
        options, ranks = self.options, self.ranks
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        count = options.batch_size * ranks.world_size
        starts = torch.randint(len(self.train_data) - options.block, (count,), generator=generator)
        places = starts[ranks.rank :: ranks.world_size, None] + torch.arange(options.block)
        return self.train_data[places].to(ranks.device), self.train_data[places + 1].to(ranks.device)

    def report(self, seconds: float) -> None:
        """Evaluate, report the step, and save. ``seconds``: time since the last evaluation."""
        train_sum, trained, test_sum, tested = self.ranks.sum(torch.cat([self.trained, self.evaluate()]))
        characters = trained * self.options.batch_size * self.options.block
        row = {
            "step": self.step,
            "train_loss": train_sum / trained,
            "test_loss": test_sum / tested,
            "unigram_entropy": self.unigram_entropy(),
            "characters_per_second": self.tally.add(characters, seconds),
            "world_size": self.ranks.world_size,
        }
        self.rows.append(row)
        self.trained.zero_()
        self.ranks.say(
            f"Step {self.step}/{self.options.steps}  train loss {row['train_loss']:.4f}  "
            f"test loss {row['test_loss']:.4f}  {row['characters_per_second']:.0f} characters/s"
        )
        self.snapshots.save(self.state())
        if self.ranks.rank == 0:
            write_metrics(self.options.output_dir, self.rows)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return the sum of losses and the number of characters of this rank's share of the held-out text."""
        self.model.eval()
        block, ranks = self.options.block, self.ranks
        total = torch.zeros(2, dtype=torch.float64)
        starts = torch.arange(0, len(self.test_data) - block, block)[ranks.rank :: ranks.world_size, None]
        for batch in torch.split(starts, 64):
            places = batch + torch.arange(block)
            logits = self.model(self.test_data[places].to(ranks.device)).flatten(0, 1)
            targets = self.test_data[places + 1].flatten().to(ranks.device)
            total += torch.tensor([F.cross_entropy(logits, targets, reduction="sum").item(), len(targets)])
        return total

    def unigram_entropy(self) -> float:
        """Return the loss on the held-out text of a model that knows only character frequencies, in nats.

        A model that does no better has learned nothing about the order of characters.
        """
        # Counting each character once more keeps the loss finite for one that the training text lacks.
        frequencies = torch.bincount(self.train_data, minlength=len(self.alphabet)) + 1.0
        return float(
            F.nll_loss((frequencies / frequencies.sum()).log().expand(len(self.test_data), -1), self.test_data)
        )

    @torch.no_grad()
    def written(self, length: int) -> str:
        """Return a text that the model writes, one character after the other."""
        self.model.eval()
        generator = torch.Generator().manual_seed(self.options.seed)
        indices = self.test_data[None, :1]
        for _ in range(length):
            logits = self.model(indices[:, -self.options.block :].to(self.ranks.device))[:, -1].cpu()
            # Dividing the logits by 0.8 makes likely characters likelier, so the text has fewer odd ones.
            choice = torch.multinomial(F.softmax(logits / 0.8, dim=-1), 1, generator=generator)
            indices = torch.cat([indices, choice], dim=1)
        return "".join(self.alphabet[int(index)] for index in indices[0])

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume."""
        return {
            "workload": "gpt",
            "step": self.step,
            "rows": self.rows,
            "trained": self.trained,
            "alphabet": "".join(self.alphabet),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self) -> None:
        """Continue from the newest snapshot, if there is one."""
        found = self.snapshots.load("gpt")
        if found is None:
            return
        mine = self.model.state_dict()
        shapes = {name: value.shape for name, value in found["model"].items()}
        if found["alphabet"] != "".join(self.alphabet) or shapes != {name: mine[name].shape for name in mine}:
            refuse(f"{self.options.snapshot} is for another text or model: pass --no-resume or another --snapshot")
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.rows, self.trained = found["step"], found["rows"], found["trained"]
        self.ranks.say(f"Resuming at step {self.step} from {self.options.snapshot}")


if __name__ == "__main__":
    main()
