"""Plans beside measurements, for configs/experiments/plan.md: python tests/benchmarks/plan.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from test_plan import CASES, counted, peak_of_second_step

print(
    "| case | GFLOPs counted | planned | | MB measured | planned | |\n|---|---|---|---|---|---|---|"
)
for name, make in CASES.items():
    torch.manual_seed(0)
    flops, memory = make().plan.flops(), sum(make().plan.bytes().values())
    planned = sum(flops.values()) - flops["Muon"]
    case = make()
    measured = counted(lambda case=case: case.loss().backward())
    peak = peak_of_second_step(make())
    print(
        f"| {name} | {measured / 1e9:.2f} | {planned / 1e9:.2f} | {planned / measured - 1:+.1%} "
        f"| {peak / 1e6:.1f} | {memory / 1e6:.1f} | {memory / peak - 1:+.1%} |"
    )
