"""Benchmarks of fastloss: one registry of losses, shapes and providers, installed as `fastloss.bench`.

cases.py        what is measured: losses, their options, shapes, dtypes, modes, inputs, bytes counted
providers.py    who is measured: eager torch, torch.compile, the backends of fastloss, a plain copy
peers.py        other libraries, each where it is installed
steps.py        what a provider hands over to be measured
ceilings.py     what the machine can do: the rates of a large copy and of a large matrix product
measure.py      how: interleaved rounds, medians, errors against float64
memory.py       the peak memory of one call
environment.py  the machine and the versions
returns.py      returns and advantages, which are no losses, beside a copy and a loop: `python -m bench.returns`
report.py       text table, JSON, README table
plot.py         PNG bar chart
cli.py          `python -m fastloss bench`
test_bench.py   the same registry under pytest-benchmark
"""
