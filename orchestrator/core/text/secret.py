"""Mask secrets, recognised by name or by form, as ``***`` before they are shown or recorded."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

HIDDEN = "***"
# A tokenizer is not a secret, and neither are the named tokens of its vocabulary, such as PAD.
_NAME = re.compile(
    r"(?<!PAD[_.-])(?<!EOS[_.-])(?<!BOS[_.-])(?<!UNK[_.-])(?<!SEP[_.-])(?<!CLS[_.-])(?<!MASK[_.-])TOKEN(?!I[SZ])|SECRET|PASS(?:W|PHRASE)|CREDENTIAL|PRIVATE|API[_.-]?KEY|ACCESS[_.-]?KEY|[_.-]KEY$|BEARER|"
    r"AUTHORI[SZ]ATION",
    re.IGNORECASE,
)
# A number of tokens is not a secret either.
_COUNTED = re.compile(r"TOKENS", re.IGNORECASE)
_NUMBER = re.compile(r"-?[\d_.,]+(?:e-?\d+)?[kmg]?\Z", re.IGNORECASE)
_OPTION = re.compile(r"--?([A-Za-z][\w.-]*)\Z")
# --name=value, and Hydra's forms: name=value, +group.name=value.
_ASSIGNMENT = re.compile(r"([-+~]{0,2}[A-Za-z_][\w.@/-]*)=(.*)\Z", re.DOTALL)
# A user name is shown unless it is long enough to be a token.
_LOGIN = re.compile(r"(://)(?:([^\s/:\"'?#]{0,19})|[^\s/:\"'?#]{20,})(:[^\s/\"'?#]*)?@")
_QUERY = re.compile(r"([?&;]([\w.-]+)=)([^\s&;\"'#]+)")
_LOOKS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
    r"sk-[A-Za-z0-9_-]{20,}|xox[abeoprs]-[\w-]{16,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)


def is_secret(name: str) -> bool:
    """Return whether the name of a variable or an option marks its value as secret."""
    return _NAME.search(name) is not None


def masked(text: str) -> str:
    """Return ``text`` with secrets in URLs and anything that looks like a token masked."""
    if "://" in text:
        text = _LOGIN.sub(_login, text)
        text = _QUERY.sub(_query, text)
    return _LOOKS.sub(HIDDEN, text)


def redacted(env: Mapping[str, str], hidden: Collection[str] = ()) -> dict[str, str]:
    """Return variables with secret values masked, and all values of the names in ``hidden``."""
    return {name: HIDDEN if name in hidden else _shown(name, value) for name, value in env.items()}


def masked_words(words: Sequence[str]) -> list[str]:
    """Return a command line with secrets masked, including the values of options with secret names."""
    found: list[str] = []
    option = ""
    for word in words:
        assignment = _ASSIGNMENT.match(word)
        if option and not word.startswith("-"):
            found.append(_shown(option, word))
        elif assignment:
            found.append(f"{assignment.group(1)}={_shown(assignment.group(1), assignment.group(2))}")
        else:
            found.append(masked(word))
        named = _OPTION.match(word)
        option = named.group(1) if named else ""
    return found


def masked_line(line: str) -> str:
    """Return a command line in one string, as ``ps`` prints it, with secrets masked."""
    return " ".join(masked_words(line.split(" ")))


def _shown(name: str, value: str) -> str:
    if not is_secret(name) or (_COUNTED.search(name) and _NUMBER.match(value)):
        return masked(value)
    return HIDDEN


def _login(match: re.Match[str]) -> str:
    scheme, user, password = match.groups()
    shown = HIDDEN if user is None else user
    return f"{scheme}{shown}{':' + HIDDEN if password else ''}@"


def _query(match: re.Match[str]) -> str:
    start, name, value = match.groups()
    secret = is_secret(name) or name.lower() == "sig" or name.lower().endswith("signature")
    return f"{start}{HIDDEN if secret else value}"
