"""Benchmarks of fastloss: one registry of losses, shapes and providers, installed as `fastloss.bench`.

cases.py        what is measured: losses, their options, shapes, dtypes, modes, inputs, bytes counted
providers.py    who is measured: eager torch, torch.compile, the backends of fastloss, a plain copy; peers go here
measure.py      how: interleaved rounds, medians, errors against float64
memory.py       the peak memory of one call
environment.py  the machine and the versions
report.py       text table, JSON, README table
plot.py         PNG bar chart
cli.py          `python -m fastloss bench`
test_bench.py   the same registry under pytest-benchmark
"""
