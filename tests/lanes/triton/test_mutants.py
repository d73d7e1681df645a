"""The lanes can fail: kernels that are broken on purpose, one edit each, must not pass."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from lanes.triton import processes

SOURCES = Path(__file__).resolve().parents[3] / "triton_kernels"

pytestmark = [
    pytest.mark.lane("Triton, kernels broken on purpose"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
]


class Mutant(NamedTuple):
    file: str
    line: str  # what stands there ...
    broken: str  # ... and what shall
    tests: str  # pytest -k: the few tests that must notice
    symptom: str  # in their output
    chip: str = ""  # compile-only lane
    lane: str = "lane_interpreter"


MUTANTS = {
    "a mask removed": Mutant(
        "kernels/row_tiles.py",
        "return tl.load(pointers, mask=mask, other=0.0, eviction_policy=EVICTION)",
        "return tl.load(pointers, eviction_policy=EVICTION)",
        "test_values and index and few and float32",
        "out-of-bounds load",
    ),
    "masked lanes counted": Mutant(
        "kernels/row_tiles.py",
        'z = tl.where(mask, z, float("-inf"))',
        "z = tl.where(mask, z, z)",
        "test_values and index and few and float32",
        "not close",
    ),
    "a sign flipped": Mutant(
        "kernels/row_tiles.py",
        "gradient -= tl.where(column == index, index_mass, 0.0)",
        "gradient += tl.where(column == index, index_mass, 0.0)",
        "test_values and index and few and float32",
        "not close",
    ),
    "ignore_index forgotten": Mutant(
        "kernels/row_tiles.py",
        "counted = index != ignore_index",
        "counted = index == index",
        "test_values and index and few and float32",
        "out-of-bounds load",
    ),
    "sums not rescaled": Mutant(
        "kernels/row_tiles.py",
        "total = total * tl.exp(top - new_top)",
        "total = total",
        "test_each_option and index and streaming and temperature and unweighted",
        "not close",
    ),
    "an edge lost": Mutant(
        "kernels/row.py",
        "total += edge_sums[0]",
        "total += 0.0",
        "test_values and index and resident and edges and float32",
        "not close",
    ),
    "a 32-bit row index": Mutant(
        "kernels/row.py",
        "row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)",
        "row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)",
        "test_offsets_beyond_32_bits and rows",
        "out-of-bounds",
    ),
    "rows taken for aligned": Mutant(
        "operators/row.py",
        "return (tensor.data_ptr() - logits.data_ptr()) % PACKET_BYTES == 0 and step % PACKET_BYTES == 0",
        "return step == step",
        "test_layouts and every and float32",
        "not close",
    ),
    "no hint": Mutant(
        "memory.py",
        "start = start // PACKET * PACKET\n    return tl.multiple_of(tensor + start, 16)",
        "start = start\n    return tensor + start",
        "test_row_kernel and resident and aligned",
        "assert 0 > 0",
        chip="sm_90",
        lane="lane_compile",
    ),
    "pointwise: a mask removed": Mutant(
        "kernels/pointwise.py",
        'return widen(tl.load(pointers, mask=mask, other=0, eviction_policy="evict_first"), A)',
        'return widen(tl.load(pointers, eviction_policy="evict_first"), A)',
        "test_sizes and 517 and float32",
        "out-of-bounds load",
        lane="lane_pointwise",
    ),
    "pointwise: the last elements lost": Mutant(
        "kernels/pointwise.py",
        "if EDGE and program == tl.num_programs(0) - 1:",
        "if EDGE and program == tl.num_programs(0):",
        "test_sizes and 517 and float32",
        "not close",
        lane="lane_pointwise",
    ),
    "pointwise: masked elements counted": Mutant(
        "kernels/pointwise.py",
        "value = tl.where(counted, values[k], 0.0)",
        "value = tl.where(counted | weighed | True, values[k], 0.0)",
        "test_masks and float32 and numbers",
        "not close",
        lane="lane_pointwise",
    ),
    "pointwise: a 32-bit stride": Mutant(
        "kernels/pointwise.py",
        "pointers = pointers + local.to(tl.int64) * strides[len(sizes)]",
        "pointers = pointers + local.to(tl.int32) * strides[len(sizes)]",
        "test_offsets_beyond_32_bits",
        "out-of-bounds",
        lane="lane_pointwise",
    ),
    "pointwise: dimensions merged that do not": Mutant(
        "operators/pointwise.py",
        "outer == inner * shape[d]",
        "outer >= inner * shape[d]",
        "test_merging or test_what_merges",
        "assert",
        lane="lane_pointwise",
    ),
    "pointwise: NaN dropped by an extreme": Mutant(
        "kernels/pointwise.py",
        "poison = tl.sum(tl.where(x != x, x, 0.0), axis=LAST)",
        "poison = 0.0",
        "test_nan_reaches_every_sum",
        "assert",
        lane="lane_pointwise",
    ),
    "pointwise: no hint": Mutant(
        "kernels/pointwise.py",
        "pointers = tl.multiple_of(tensor + offset // UNIT * UNIT, ALIGNMENT)",
        "pointers = tensor + offset",
        "test_skeleton and padded",
        "assert 0 >= 2",
        chip="sm_90",
        lane="lane_pointwise_compile",
    ),
}


def copy_with(mutant: Mutant, folder: Path) -> Path:
    shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = folder / mutant.file
    text = source.read_text()
    assert text.count(mutant.line) == 1, f"{mutant.file} no longer has the line that this mutant edits"
    source.write_text(text.replace(mutant.line, mutant.broken))
    return folder


@pytest.mark.slow(5)
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    where = {"FASTLOSS_TEST_TRITON_KERNELS": str(copy_with(mutant, tmp_path / "triton_kernels"))}
    options = ("-x", "-k", mutant.tests)
    if mutant.chip:
        outcome = processes.compile_for(mutant.chip, mutant.lane, tmp_path / "cache", *options, **where)
    else:
        outcome = processes.interpret(mutant.lane, *options, **where)
    print(outcome.output)
    assert outcome.code == 1
    assert mutant.symptom in outcome.output
