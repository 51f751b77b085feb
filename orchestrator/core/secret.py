"""What must not be shown: recognised by the name of a variable or an option, or by how a value looks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

VARIABLE = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|_KEY$", re.IGNORECASE)
# Whole words of an option's name, so that --max-tokens and --tokenizer are shown.
OPTION = re.compile(
    r"--?(?:[a-z0-9]+[-_.])*?(?:(?<!pad.)(?<!eos.)(?<!bos.)(?<!unk.)(?<!sep.)(?<!cls.)(?<!mask.)token|secret|password"
    r"|passwd|passphrase|credentials?|api[-_]?key|(?:access|secret|auth|private)[-_]?key)(?:[-_][a-z0-9]+)*",
    re.IGNORECASE,
)
# scheme://user:password@host
ADDRESS = re.compile(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)")
MASK = "***"


def redacted(env: Mapping[str, str]) -> dict[str, str]:
    """An environment that may be shown: values that look secret, or whose names do, are replaced by ``***``."""
    return {name: MASK if VARIABLE.search(name) else masked(value) for name, value in env.items()}


def masked(text: str) -> str:
    """Text that may be shown: the passwords in addresses are replaced."""
    return ADDRESS.sub(rf"\g<before>{MASK}", text)


def masked_words(argv: Iterable[str]) -> list[str]:
    """A command line that may be shown: the values of options that look secret are replaced."""
    found: list[str] = []
    secret = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if secret and not word.startswith("--"):
            found.append(MASK)
        elif equals and OPTION.fullmatch(name):
            found.append(f"{name}={MASK}")
        else:
            found.append(masked(word))
        secret = not equals and OPTION.fullmatch(name) is not None
    return found
