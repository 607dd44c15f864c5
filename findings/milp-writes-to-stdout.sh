#!/bin/sh
# SciPy's mixed-integer solver (HiGHS) writes a line to the standard output for some problems, though it is told
# to show nothing.
#
# `milp` shows nothing by default (`disp` is False). For some problems of choosing one of several options for each
# item within a limit, HiGHS writes a line of its own to the standard output all the same, from C++, so that
# Python's redirection of sys.stdout does not catch it. A program that prints JSON there prints no JSON then.
#
# Exits 0 while this is so, 1 when it has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.0
cat >"$folder/solve.py" <<'PYTHON'
import random

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

ITEMS, BITS = 28, (2.1, 2.6, 3.1, 3.4, 4.25, 4.5, 5.5, 6.6, 8.5)

for seed in range(30):
    chance = random.Random(seed)
    costs, takes = [], []
    for _ in range(ITEMS):
        size, weight = 4096 * chance.randrange(1, 60), chance.uniform(0.1, 9)
        costs += [weight * chance.uniform(0.8, 1.2) * 2 ** (-2 * bits) for bits in BITS]
        takes += [round(size * bits / 8) for bits in BITS]
    limit = 1.01 * sum(takes[3 :: len(BITS)])
    one_of_each = np.kron(np.eye(ITEMS), np.ones(len(BITS)))
    found = milp(
        1e4 * np.array(costs) / max(costs),
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_of_each, 1, 1),
            LinearConstraint(1e6 * np.array([takes]) / limit, -np.inf, 1e6),
        ],
        options={"disp": False, "mip_rel_gap": 1e-6},
    )
    assert found.success, found.message
PYTHON
"$folder/venv/bin/python" -c 'import scipy; print("scipy", scipy.__version__)'
"$folder/venv/bin/python" "$folder/solve.py" >"$folder/output"
echo "lines on the standard output after 30 problems, all solved, with disp=False: $(wc -l <"$folder/output")"
sort "$folder/output" | uniq -c
test -s "$folder/output"
