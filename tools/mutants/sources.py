"""The mutants of the kernels, and the copy of the tree that they are made in."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .equivalents import EQUIVALENT
from .kinds import DECLARATIONS, Kind
from .schemata import Edit

ROOT = Path(__file__).resolve().parents[2]
EXTREME = r"([^=?:;(]+?) [<>]=? ([^?:;]+?)\)? \? (?:\1 : \2|\2 : \1)[;,)]"


@dataclass(frozen=True)
class Mutant:
    file: str
    number: int
    before: str  # the line
    after: str
    source: str  # of the file
    edit: Edit

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.before}  ->  {self.after or 'gone'}"

    @property
    def equivalent(self) -> str | None:
        """The reason why it is."""
        bounds = [re.sub(r"([<>])=", r"\1", line) for line in (self.before, self.after)]
        if bounds[0] == bounds[1] and re.search(EXTREME, self.after):
            return "the lesser or greater of two, which are the same at a tie"
        return EQUIVALENT.get(self.file, {}).get(self.after)


def without_text(name: str, source: str) -> str:
    """The source with spaces for its comments and strings: an edit there would be no mutant."""

    def spaces(text: str) -> str:
        return re.sub(r"\S", " ", text)

    if not name.endswith(".py"):
        return re.sub(r"//.*", lambda match: spaces(match.group()), source)
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            (first, begin), (last, end) = token.start, token.end
            for number in range(first - 1, last):
                line = lines[number]
                left, right = begin if number == first - 1 else 0, end if number == last - 1 else len(line)
                lines[number] = line[:left] + spaces(line[left:right]) + line[right:]
    return "".join(lines)


def mutants(kind: Kind, root: Path) -> Iterator[Mutant]:
    for name in kind.files:
        source = (root / name).read_text()
        code, seen = without_text(name, source), {source}
        for pattern, replacement in kind.edits:
            for match in re.finditer(pattern, code):
                line = code[code.rfind("\n", 0, match.start()) + 1 : code.find("\n", match.start())]
                if re.search(DECLARATIONS, line):
                    continue
                edit = Edit(match.start(), match.end(), source[match.start() : match.end()], match.expand(replacement))
                mutated = source[: edit.begin] + edit.after + source[edit.end :]
                if mutated in seen:
                    continue
                seen.add(mutated)
                start = source.rfind("\n", 0, match.start()) + 1
                before, after = (text[start : text.find("\n", match.start())].strip() for text in (source, mutated))
                yield Mutant(name, source.count("\n", 0, start) + 1, before, after, mutated, edit)


# Edits of the copy. One instruction set and little optimisation take a quarter of a build's time; without any, mutants
# that are built together would make the tests slow. "some": pointwise losses of some families only, as in the
# sanitizers' builds.
SWITCH = Path(__file__).with_name("switch.h")
CHEAPER = {
    "tests/lanes/cuda/cuda_build.py": (
        ('"plain": ["-O1"],', '"plain": ["-O1"], "some": ["-O1"],'),
        ('"-std=c++17", "-g1"', f'"-w", "-include", "{SWITCH}", "-std=c++17", "-g1"'),
        ('{messages}"[:8000]', '{messages}"[:800000]'),
    ),
    "setup.py": (
        ('"-O3 -std=c++17 -fPIC -fvis', f'"-O1 -w -include {SWITCH} -std=c++17 -fPIC -fvis'),
        ('"FASTLOSS_INSTRUCTION_SETS", "avx2 avx512"', '"FASTLOSS_INSTRUCTION_SETS", ""'),
    ),
}  # fmt: skip


def copy_tree(tree: Path) -> tuple[str, str]:
    """The digests of what it has copied: of the package and its kernels, and of the tests."""
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    package, tests = hashlib.sha256(), hashlib.sha256()
    for name in files:
        content = (ROOT / name).read_bytes()
        for folder, digest in (
            ("csrc/", package),
            ("triton_kernels/", package),
            ("fastloss/", package),
            ("tests/", tests),
        ):
            if name.startswith(folder):
                digest.update(name.encode() + content)
        for costly, cheap in CHEAPER.get(name, ()):
            assert content.count(costly.encode()) == 1, (name, costly)
            content = content.replace(costly.encode(), cheap.encode())
        copy = tree / name
        if not copy.exists() or copy.read_bytes() != content:  # what an interrupted run left mutated, too
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    return package.hexdigest(), tests.hexdigest()
