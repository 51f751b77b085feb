"""Fine-tune a transformer to classify texts, with Hugging Face's Trainer on all ranks.

    orch run finetune -- --csv reviews.csv --model distilbert/distilbert-base-uncased

The CSV has the columns ``text`` and ``label``. The model and its tokenizer come from the hub by name, from a
folder, or, with ``--from-scratch``, from nothing: a small BERT with the words of the CSV as vocabulary, which
needs no download. Every node keeps its checkpoints in ``checkpoints``; rank 0 writes ``metrics.jsonl`` (one line
an epoch), ``loss.png`` and the best model, in ``best-model``. Runs under ``orch run finetune``, also with
``--launcher accelerate``, under plain ``torchrun`` and ``accelerate launch``, and as a single process.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from _ranks import Ranks, add_backend, data_file, refuse
from _records import plot_curves, write_atomically, write_metrics
from torch.utils.data import Dataset

try:
    import transformers
    from safetensors.torch import save_model
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
except ImportError:
    refuse("needs Hugging Face's packages: pip install transformers accelerate")

EVALUATION_SHARE = 0.2
VOCABULARY = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Written into a checkpoint when all of it is there, with the number of ranks.
COMPLETE = "complete"


def main() -> None:
    """Train, evaluate, keep the best model."""
    options = parse_options()
    transformers.utils.logging.disable_progress_bar()
    ranks = Ranks(options.backend)
    texts, labels, names = read_csv(data_file(options.csv, "--csv"))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(options.seed)).tolist()
    held_out = max(1, int(len(texts) * EVALUATION_SHARE))
    test, train = order[:held_out], order[held_out:]
    tokenizer, model = (
        from_scratch([texts[index] for index in train], names, options)
        if options.from_scratch
        else pretrained(options.model, names)
    )
    with ranks:
        digests = ranks.gathered(hashlib.sha256("\0".join(texts).encode()).hexdigest())
        if len(set(digests)) > 1:
            refuse(f"{options.csv} is not the same on all nodes: send it with orch sync --data {options.csv}")
        sets = [
            Texts(tokenizer, [texts[n] for n in part], [labels[n] for n in part], options)
            for part in (train, test)
        ]
        majority = Counter(labels[index] for index in test).most_common(1)[0][1] / len(test)
        ranks.introduce()
        ranks.say(
            f"{len(train)} texts to train, {len(test)} to evaluate, {len(names)} labels; "
            f"the most frequent one is {majority:.4f} of them"
        )
        Finetuning(options, ranks, tokenizer, model, sets[0], sets[1]).run()


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--csv", type=Path, required=True, help="with the columns text and label; also in $ORCH_DATA"
    )
    parser.add_argument(
        "--model", default="distilbert/distilbert-base-uncased", metavar="NAME|FOLDER", help="what to begin with"
    )
    parser.add_argument("--from-scratch", action="store_true", help="begin with a small BERT that knows nothing")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16, help="per rank")
    parser.add_argument("--lr", type=float, help="0.00005, and 0.001 from scratch")
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a text that count")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if there are checkpoints")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="for all that is written")
    options = parser.parse_args()
    if options.lr is None:
        options.lr = 1e-3 if options.from_scratch else 5e-5
    return options


def read_csv(path: Path) -> tuple[list[str], list[int], list[str]]:
    """Texts, the number of each one's label, and the labels' names; ends with a line if it cannot be used."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        refuse(f"--csv {path} cannot be read: {error}")
    if not rows or not {"text", "label"} <= set(rows[0]):
        refuse(f"--csv {path}: expected a header with the columns text and label, and rows below it")
    names = sorted({row["label"] for row in rows})
    if len(names) < 2:
        refuse(f"--csv {path}: every label is {names[0]!r}: expected at least two")
    return [row["text"] for row in rows], [names.index(row["label"]) for row in rows], names


def from_scratch(texts: Sequence[str], names: Sequence[str], options: argparse.Namespace) -> tuple[Any, Any]:
    """A tokenizer of the words that are frequent in ``texts``, and a small BERT with weights by chance."""
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    # Ties by the word, so that every rank has the same vocabulary.
    words = sorted(counts, key=lambda word: (-counts[word], word))[:VOCABULARY]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    transformers.set_seed(options.seed)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=options.max_length,
        pad_token_id=vocabulary["[PAD]"],
        **label_names(names),
    )
    return tokenizer, transformers.BertForSequenceClassification(config)


def pretrained(name: str, names: Sequence[str]) -> tuple[Any, Any]:
    """The tokenizer and model of a name or folder; ends with a line if they cannot be had."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, **label_names(names))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        refuse(f"--model {name}: {reason} - send a folder with orch sync --data, or pass --from-scratch")
    return tokenizer, model


def label_names(names: Sequence[str]) -> dict[str, Any]:
    """How a model's config has them."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {n: i for i, n in enumerate(names)},
    }


class Texts(Dataset[dict[str, Any]]):
    """Texts as token numbers, each with its label."""

    def __init__(self, tokenizer: Any, texts: list[str], labels: list[int], options: argparse.Namespace) -> None:
        self.labels = labels
        self.encoded = tokenizer(texts, truncation=True, max_length=options.max_length)["input_ids"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.encoded[index], "labels": self.labels[index]}


class Stopping(transformers.TrainerCallback):  # type: ignore[misc]
    """Ends training with a checkpoint at the same step on all ranks when a signal asks any of them to."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.signal = 0
        self.agreed = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Remember it until the step is over."""
        self.signal = number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask every rank whether it was asked to stop."""
        (asked,) = self.ranks.sum(torch.tensor([float(self.signal)]))
        self.agreed = bool(asked)
        if self.agreed:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as whole: a process that is killed while it saves leaves one without the mark."""
        if self.ranks.local_rank == 0:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if not (folder / "model.safetensors").exists():
                # transformers 5 writes the model by the first rank alone, whatever save_on_each_node says.
                kwargs["model"].config.save_pretrained(folder)
                save_model(kwargs["model"], str(folder / "model.safetensors"), metadata={"format": "pt"})
            write_atomically(folder / COMPLETE, lambda partial: partial.write_text(str(self.ranks.world_size)))
        if self.agreed:
            raise SystemExit(128 + (self.signal or signal.SIGTERM))


class Finetuning:
    """One rank's part: Hugging Face's Trainer, and what is kept of it."""

    def __init__(
        self, options: argparse.Namespace, ranks: Ranks, tokenizer: Any, model: Any, train: Texts, test: Texts
    ) -> None:
        self.options, self.ranks, self.tokenizer = options, ranks, tokenizer
        self.checkpoints = options.output_dir / "checkpoints"
        arguments = transformers.TrainingArguments(
            output_dir=str(self.checkpoints),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=options.lr,
            seed=options.seed,
            bf16=options.precision == "bfloat16",
            fp16=options.precision == "float16",
            use_cpu=ranks.device.type == "cpu",
            ddp_backend=ranks.backend if ranks.world_size > 1 else None,
            ddp_find_unused_parameters=False,
            # It would multiply the loss by the number of ranks, for models that do not divide by what it counts.
            average_tokens_across_devices=False,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            # Nodes share no disk, and each has to find the best checkpoint at the end.
            save_on_each_node=True,
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=ranks.device.type == "cuda",
        )
        self.trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=test,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda found: {
                "accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())
            },
            callbacks=[Stopping(ranks), Telling(ranks, options)],
        )
        self.trainer.remove_callback(transformers.PrinterCallback)

    def run(self) -> None:
        """Train what is left, evaluate the best model, and keep it."""
        newest = self.newest_checkpoint()
        if newest is not None:
            self.ranks.say(f"Resuming from {newest.name}")
        began = time.monotonic()
        self.trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
        found = self.trainer.evaluate()
        self.ranks.say(f"Trained in {time.monotonic() - began:.1f} s")
        self.ranks.say(f"Evaluation accuracy {found['eval_accuracy']:.4f}, loss {found['eval_loss']:.4f}")
        if self.ranks.rank == 0:
            self.keep_best()
            rows = epochs(self.trainer.state.log_history)
            write_metrics(self.options.output_dir, rows)
            panels = {"Cross entropy": ["train_loss", "eval_loss"], "Accuracy": ["eval_accuracy"]}
            plot_curves(self.options.output_dir / "loss.png", rows, "epoch", panels)

    def newest_checkpoint(self) -> Path | None:
        """The newest one that is whole on every node; None if there is none."""
        here = {path.parent.name: path.read_text() for path in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")}
        if self.options.no_resume:
            here = {}
        everywhere: set[tuple[str, str]] = set.intersection(*map(set, self.ranks.gathered(list(here.items()))))
        if not everywhere:
            return None
        name, world_size = max(everywhere, key=lambda each: int(each[0].rpartition("-")[2]))
        if int(world_size) != self.ranks.world_size:
            # The Trainer counts steps, and an epoch has others on other numbers of ranks.
            refuse(f"{self.checkpoints} are of {world_size} ranks: run on as many again, or pass --no-resume")
        return Path(self.checkpoints, name)

    def keep_best(self) -> None:
        """The best model and its tokenizer in a folder that is whole or not there."""
        folder = self.options.output_dir / "best-model"
        partial = folder.with_name(".best-model.partial")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        self.trainer.save_model(str(partial))
        self.tokenizer.save_pretrained(str(partial))
        partial.rename(folder)
        self.ranks.say(f"The best model is in {folder}")


class Telling(transformers.TrainerCallback):  # type: ignore[misc]
    """Says each epoch what came out."""

    def __init__(self, ranks: Ranks, options: argparse.Namespace) -> None:
        self.ranks, self.options = ranks, options
        self.told = 0.0

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A line from rank 0."""
        rows = epochs(state.log_history)
        if rows and "train_loss" in rows[-1] and rows[-1]["epoch"] > self.told:
            row = rows[-1]
            self.told = row["epoch"]
            self.ranks.say(
                f"Epoch {row['epoch']:g}/{self.options.epochs}  train loss {row['train_loss']:.4f}  "
                f"evaluation loss {row['eval_loss']:.4f}  accuracy {row['eval_accuracy']:.4f}"
            )


def epochs(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Trainer's log, a row for each epoch's evaluation."""
    rows: dict[float, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(entry["epoch"], {"epoch": entry["epoch"]})
        row |= {name: entry[name] for name in ("eval_loss", "eval_accuracy") if name in entry}
        if "loss" in entry:
            row["train_loss"] = entry["loss"]
    return [row for row in rows.values() if "eval_loss" in row]


if __name__ == "__main__":
    main()
