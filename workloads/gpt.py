"""Train a small character-level GPT with DistributedDataParallel on a text file, and let it write.

    orch run gpt -- --text notes.txt

The model is GPT-2's in small: pre-norm blocks of causal self-attention and a feed-forward layer, learnt positions,
the output tied to the embedding (Radford et al. 2019; sizes as in karpathy/minGPT). Every node keeps a
``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (a line each evaluation) and ``loss.png``. Without ``--text`` it
reads the source of Python's own argparse, about 100 KB that every machine has. Runs under ``orch run gpt``, under
plain ``torchrun``, and as a single process.
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
from _ranks import Ranks, add_backend, data_file, refuse
from _records import Snapshots, add_records, plot_curves, write_metrics
from torch import Tensor, nn


def main() -> None:
    """Train on the ranks that there are, then let rank 0 write."""
    options = parse_options()
    text = inspect.getsource(argparse) if options.text is None else read(data_file(options.text, "--text"))
    if len(text) < 20 * options.block:
        refuse(f"--text {options.text}: {len(text)} characters are too few for blocks of {options.block}")
    with Ranks(options.backend) as ranks:
        if len(set(ranks.gathered(hashlib.sha256(text.encode()).hexdigest()))) > 1:
            refuse(
                "the text is not the same on all nodes: send one with orch sync --data, and name it with --text"
            )
        training = Training(options, ranks, text)
        training.run()
        if ranks.rank == 0:
            print(training.written(options.sample), flush=True)


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file in UTF-8")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=16, help="blocks per rank")
    parser.add_argument("--block", type=int, default=64, help="characters that the model sees at once")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--width", type=int, default=96, help="of the embedding; a multiple of --heads")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--evaluate-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--sample", type=int, default=300, help="characters to write at the end")
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    add_records(parser)
    options = parser.parse_args()
    if options.width % options.heads:
        refuse(f"--width {options.width} is no multiple of --heads {options.heads}")
    return options


def read(path: Path) -> str:
    """The text to learn; ends with a line if it cannot be read."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"--text {path} cannot be read: {error}")


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each added to what comes in: ``(batch, time, width)``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the same shape."""
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
    """Characters ``(batch, time)`` to logits of the next ``(batch, time, characters)``; time is at most block."""

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
            # What the blocks add up to stays as large as what comes in (GPT-2).
            nn.init.normal_(block.projection.weight, std=0.02 / math.sqrt(2 * options.layers))

    def forward(self, indices: Tensor) -> Tensor:
        """The logits."""
        places = torch.arange(indices.shape[1], device=indices.device)
        x = self.blocks(self.characters(indices) + self.positions(places))
        return F.linear(self.norm(x), self.characters.weight)


class Training:
    """One rank's part. The last tenth of the text is for evaluation."""

    def __init__(self, options: argparse.Namespace, ranks: Ranks, text: str) -> None:
        self.options, self.ranks = options, ranks
        self.alphabet = sorted(set(text))
        index = {character: number for number, character in enumerate(self.alphabet)}
        data = torch.tensor([index[character] for character in text])
        held_out = max(len(data) // 10, options.block + 1)
        self.train_data, self.test_data = data[:-held_out], data[-held_out:]
        torch.manual_seed(options.seed)
        self.model = GPT(len(self.alphabet), options).to(ranks.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr, betas=(0.9, 0.99))
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        # Sum of losses and number of updates since the last evaluation.
        self.trained = torch.zeros(2, dtype=torch.float64)
        self.rows: list[dict[str, Any]] = []
        self.resume()
        self.parallel = ranks.parallel(self.model)

    def run(self) -> None:
        """All steps that are left, with an evaluation every so often and at the end."""
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
            panels = {"Cross entropy, nats a character": ["train_loss", "test_loss", "unigram_entropy"]}
            plot_curves(options.output_dir / "loss.png", self.rows, "step", panels)

    def evaluation_due(self) -> bool:
        """Whether this step's evaluation is still to be done."""
        done = bool(self.rows) and self.rows[-1]["step"] >= self.step
        last = self.step >= self.options.steps
        return not done and self.step > 0 and (last or self.step % self.options.evaluate_every == 0)

    def update(self) -> float:
        """One step on this rank's own random blocks; the loss."""
        self.parallel.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        inputs, targets = self.blocks_of(self.step)
        logits = self.parallel(inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def learning_rate(self) -> float:
        """Up for the first twentieth of the steps, then down to a tenth along a cosine."""
        warm = max(1, self.options.steps // 20)
        done = max(0.0, (self.step - warm) / max(1, self.options.steps - warm))
        up = min(1.0, (self.step + 1) / warm)
        return float(self.options.lr * up * (0.1 + 0.45 * (1 + math.cos(math.pi * done))))

    def blocks_of(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's share of a step's random blocks, and the characters that follow each."""
        options, ranks = self.options, self.ranks
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        count = options.batch_size * ranks.world_size
        starts = torch.randint(len(self.train_data) - options.block, (count,), generator=generator)
        places = starts[ranks.rank :: ranks.world_size, None] + torch.arange(options.block)
        return self.train_data[places].to(ranks.device), self.train_data[places + 1].to(ranks.device)

    def report(self, seconds: float) -> None:
        """Evaluate, say what came out, keep it."""
        train_sum, trained, test_sum, tested = self.ranks.sum(torch.cat([self.trained, self.evaluate()]))
        characters = trained * self.options.batch_size * self.options.block
        row = {
            "step": self.step,
            "train_loss": train_sum / trained,
            "test_loss": test_sum / tested,
            "unigram_entropy": self.unigram_entropy(),
            "characters_per_second": characters / seconds,
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
        """Sum of losses and number of characters of this rank's share of the text that was held out."""
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
        """What knowing only how frequent each character is costs on the held-out text, in nats a character."""
        frequencies = torch.bincount(self.train_data, minlength=len(self.alphabet)) + 1.0
        return float(
            F.nll_loss((frequencies / frequencies.sum()).log().expand(len(self.test_data), -1), self.test_data)
        )

    @torch.no_grad()
    def written(self, length: int) -> str:
        """A text that the model makes up, one character after the other."""
        self.model.eval()
        generator = torch.Generator().manual_seed(self.options.seed)
        indices = self.test_data[None, :1]
        for _ in range(length):
            logits = self.model(indices[:, -self.options.block :].to(self.ranks.device))[:, -1].cpu()
            choice = torch.multinomial(F.softmax(logits / 0.8, dim=-1), 1, generator=generator)
            indices = torch.cat([indices, choice], dim=1)
        return "".join(self.alphabet[int(index)] for index in indices[0])

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
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
        """Go on where the newest snapshot ends, if there is one."""
        found = self.snapshots.load("gpt")
        if found is None:
            return
        mine = self.model.state_dict()
        shapes = {name: value.shape for name, value in found["model"].items()}
        if found["alphabet"] != "".join(self.alphabet) or shapes != {name: mine[name].shape for name in mine}:
            refuse(f"{self.options.snapshot} is of another text or model: pass --no-resume or another --snapshot")
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.rows, self.trained = found["step"], found["rows"], found["trained"]
        self.ranks.say(f"Resuming at step {self.step} from {self.options.snapshot}")


if __name__ == "__main__":
    main()
