"""Fine-tune a transformer to classify texts, with Hugging Face's Trainer on all ranks.

    orch run finetune
    orch run finetune -- --csv reviews.csv --text-column review --label-column stars
    orch run finetune -- --csv reviews.csv --model distilbert/distilbert-base-uncased

Without ``--csv``, the texts are ``docstrings.csv`` beside this file: paragraphs of the documentation of three
packages of Python, labelled with their package (Copyright Python Software Foundation, see ``docstrings.LICENSE``).
``--model`` names a model on the hub or a folder with one and its tokenizer; without it, a small BERT is trained
from scratch, with the words of the CSV as its vocabulary, and nothing is downloaded. Every node keeps its
checkpoints in ``checkpoints``; rank 0 writes ``metrics.jsonl`` (one line for each epoch), ``loss.png`` and the
best model, in ``best-model``. Runs under ``orch run finetune``, also with ``--launcher accelerate``, under plain
``torchrun`` and ``accelerate launch``, and as a single process.
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
from _ranks import Ranks, add_backend, add_learning, counted, data_file, parsed, refuse
from _records import Tally, plot_curves, write_atomically, write_metrics
from torch.utils.data import Dataset

try:
    import transformers
    from safetensors.torch import save_model
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
except ImportError:
    refuse("needs Hugging Face's packages: pip install transformers accelerate")

# orch reads this without importing this file, and sends the file that --csv names (docs/workloads.md).
NEEDS_DATA = [{"file": "--csv"}]
TEXTS = Path(__file__).with_name("docstrings.csv")
EVALUATION_SHARE = 0.2
VOCABULARY = 8000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Figures of an evaluation that become part of an epoch's row.
KEPT = ("eval_loss", "eval_accuracy", "seconds", "samples_per_second")
# File that marks a checkpoint as complete; it contains the number of ranks that wrote the checkpoint.
COMPLETE = "complete"


def main() -> None:
    """Train, evaluate, keep the best model."""
    options = parse_options()
    transformers.utils.logging.disable_progress_bar()
    ranks = Ranks(options.backend)
    file = TEXTS if options.csv is None else data_file(options.csv, "--csv")
    texts, labels, names = read_csv(file, options.text_column, options.label_column)
    # The same seed on every rank: all of them hold out the same texts.
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(options.seed)).tolist()
    held_out = max(1, int(len(texts) * EVALUATION_SHARE))
    test, train = order[:held_out], order[held_out:]
    tokenizer, model = (
        from_scratch([texts[index] for index in train], names, options)
        if options.model is None
        else pretrained(options.model, names)
    )
    with ranks:
        # Ranks with other texts would have other vocabularies and numbers of steps, and fail much later.
        digests = ranks.gathered(hashlib.sha256("\0".join(texts).encode()).hexdigest())
        if len(set(digests)) > 1:
            refuse(f"{file} is not the same on all nodes: send it with orch sync --data {file}")
        sets = [
            Texts(tokenizer, [texts[n] for n in part], [labels[n] for n in part], options)
            for part in (train, test)
        ]
        majority = Counter(labels[index] for index in test).most_common(1)[0][1] / len(test)
        ranks.introduce()
        ranks.say(
            f"{counted(len(train), 'text')} to train, {len(test)} to evaluate, {counted(len(names), 'label')}; "
            f"the most frequent one is {majority:.4f} of them"
        )
        parameters = sum(each.numel() for each in model.parameters())
        origin = (
            "A small BERT from scratch (--model takes a pretrained model)"
            if options.model is None
            else options.model
        )
        ranks.say(f"{origin}: {parameters} parameters")
        Finetuning(options, ranks, tokenizer, model, sets[0], sets[1]).run()


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--csv", type=Path, help="file of texts and labels, here or in $ORCH_DATA; default docstrings.csv"
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of --csv with the texts")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="column of --csv with the labels")
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--model", metavar="NAME|FOLDER", help="pretrained model")
    origin.add_argument(
        "--from-scratch", action="store_true", help="train a small BERT with random weights, as without --model"
    )
    parser.add_argument("--epochs", type=int, help="default 6, or 3 with --model")
    add_learning(
        parser, batch_size=16, lr=None, batch="texts per rank", rate="default 0.003, or 0.00005 with --model"
    )
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a text to use")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    parser.add_argument("--no-resume", action="store_true", help="ignore existing checkpoints")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="folder for all output")
    options = parsed(parser)
    if options.lr is None:
        options.lr = 3e-3 if options.model is None else 5e-5
    if options.epochs is None:
        options.epochs = 6 if options.model is None else 3
    return options


def read_csv(path: Path, text: str, label: str) -> tuple[list[str], list[int], list[str]]:
    """Return the texts, the number of each text's label, and the names of the labels.

    ``text`` and ``label`` are the names of the columns. Ends the process with a line if the file cannot be used.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        refuse(f"--csv {path} cannot be read: {error}")
    for option, column in (("--text-column", text), ("--label-column", label)):
        if column not in columns:
            refuse(f"{option} {column}: {path} has the columns {', '.join(columns) or 'of an empty file'}")
    if not rows:
        refuse(f"--csv {path}: expected rows below the header")
    # A row that is too short has None in its last columns.
    rows = [{text: row[text] or "", label: row[label] or ""} for row in rows]
    names = sorted({row[label] for row in rows})
    if len(names) < 2:
        refuse(f"--csv {path}: every label is {names[0]!r}: expected at least two different ones")
    return [row[text] for row in rows], [names.index(row[label]) for row in rows], names


def from_scratch(texts: Sequence[str], names: Sequence[str], options: argparse.Namespace) -> tuple[Any, Any]:
    """Return a tokenizer for the most frequent words of ``texts``, and a small BERT with random weights."""
    counts = Counter(word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower()))
    # Words that are equally frequent are sorted by name, so that every rank has the same vocabulary.
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
    # The same first weights on all ranks.
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
    """Return the tokenizer and the model with this name or in this folder.

    Ends the process with a line if they cannot be loaded.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(name, **label_names(names))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        refuse(f"--model {name}: {reason}; send a folder with orch sync --data, or pass --from-scratch")
    return tokenizer, model


def label_names(names: Sequence[str]) -> dict[str, Any]:
    """Return the labels as settings of a model's config."""
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
    """Ends training with a checkpoint, at the same step on all ranks, when a signal asks any of them to stop.

    Saving and training are collectives inside the Trainer, so a rank must not leave on its own: the others would
    wait for it.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.signal = 0
        self.agreed = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Remember a signal until the step is over."""
        self.signal = number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Ask all ranks whether any of them was asked to stop."""
        (asked,) = self.ranks.sum(torch.tensor([float(self.signal)]))
        self.agreed = bool(asked)
        if self.agreed:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as complete, and end the process if the ranks have agreed to stop.

        A process that is killed while it saves leaves a checkpoint without the mark.
        """
        if self.ranks.local_rank == 0:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if not (folder / "model.safetensors").exists():
                # transformers 5 writes the model on the first rank only, in spite of save_on_each_node.
                kwargs["model"].config.save_pretrained(folder)
                save_model(kwargs["model"], str(folder / "model.safetensors"), metadata={"format": "pt"})
            write_atomically(folder / COMPLETE, lambda partial: partial.write_text(str(self.ranks.world_size)))
        if self.agreed:
            raise SystemExit(128 + (self.signal or signal.SIGTERM))


class Finetuning:
    """One rank's part of the training: Hugging Face's Trainer, and the files to keep."""

    def __init__(
        self, options: argparse.Namespace, ranks: Ranks, tokenizer: Any, model: Any, train: Texts, test: Texts
    ) -> None:
        self.options, self.ranks, self.tokenizer = options, ranks, tokenizer
        self.tally = Tally()
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
            # All parameters take part in the loss, so DDP need not search for others in each step.
            ddp_find_unused_parameters=False,
            # If true, the Trainer multiplies the loss by the number of ranks, also for models that do not divide
            # it by the number of tokens over all ranks.
            average_tokens_across_devices=False,
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            # Nodes do not share a disk, and each must find the best checkpoint at the end.
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
            callbacks=[Stopping(ranks), Telling(ranks, options, len(train), self.tally)],
        )
        self.trainer.remove_callback(transformers.PrinterCallback)

    def run(self) -> None:
        """Train the remaining epochs, evaluate the best model, and keep it."""
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
            panels = {
                "Cross entropy": ["train_loss", "eval_loss"],
                "Accuracy": ["eval_accuracy"],
                "Samples/s": ["samples_per_second"],
            }
            plot_curves(self.options.output_dir / "loss.png", rows, "epoch", panels)
        self.tally.summarise(self.ranks)

    def newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is complete on every node; None if there is none.

        Ends the process with a line if another number of ranks wrote it. A collective: every rank must call it.
        """
        here = {path.parent.name: path.read_text() for path in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")}
        if self.options.no_resume:
            here = {}
        everywhere: set[tuple[str, str]] = set.intersection(*map(set, self.ranks.gathered(list(here.items()))))
        if not everywhere:
            return None
        name, world_size = max(everywhere, key=lambda each: int(each[0].rpartition("-")[2]))
        if int(world_size) != self.ranks.world_size:
            # The Trainer resumes at a step, and the number of steps in an epoch depends on the number of ranks.
            refuse(
                f"{self.checkpoints} are from {counted(int(world_size), 'rank')}: "
                "use the same number, or pass --no-resume"
            )
        return Path(self.checkpoints, name)

    def keep_best(self) -> None:
        """Write the best model and its tokenizer to a folder that is complete or absent."""
        folder = self.options.output_dir / "best-model"
        partial = folder.with_name(".best-model.partial")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        self.trainer.save_model(str(partial))
        self.tokenizer.save_pretrained(str(partial))
        partial.rename(folder)
        self.ranks.say(f"The best model is in {folder}")


class Telling(transformers.TrainerCallback):  # type: ignore[misc]
    """Measures each epoch, which trains ``samples``, and prints its results."""

    def __init__(self, ranks: Ranks, options: argparse.Namespace, samples: int, tally: Tally) -> None:
        self.ranks, self.options, self.samples, self.tally = ranks, options, samples, tally
        self.told = 0.0
        self.began = self.seconds = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when an epoch begins."""
        self.began = time.monotonic()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note how long the epoch took, before its evaluation."""
        self.seconds = time.monotonic() - self.began

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print the results of an epoch, on rank 0."""
        if self.seconds:
            # In the Trainer's log the figures are part of the checkpoint.
            rate = self.tally.add(self.samples, self.seconds)
            state.log_history[-1] |= {"seconds": self.seconds, "samples_per_second": rate}
            self.seconds = 0.0
        rows = epochs(state.log_history)
        if rows and "train_loss" in rows[-1] and rows[-1]["epoch"] > self.told:
            row = rows[-1]
            self.told = row["epoch"]
            self.ranks.say(
                f"Epoch {row['epoch']:g}/{self.options.epochs}  train loss {row['train_loss']:.4f}  "
                f"evaluation loss {row['eval_loss']:.4f}  accuracy {row['eval_accuracy']:.4f}  "
                f"{row['seconds']:.1f} s  {row['samples_per_second']:.0f} samples/s"
            )


def epochs(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each epoch that was evaluated, from the Trainer's log."""
    rows: dict[float, dict[str, Any]] = {}
    for entry in history:
        row = rows.setdefault(entry["epoch"], {"epoch": entry["epoch"]})
        row |= {name: entry[name] for name in KEPT if name in entry}
        if "loss" in entry:
            row["train_loss"] = entry["loss"]
    return [row for row in rows.values() if "eval_loss" in row]


if __name__ == "__main__":
    main()
