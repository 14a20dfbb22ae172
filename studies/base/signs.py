"""Signs that look like others in source code, by name."""

from __future__ import annotations

SIGMA = "\u03c3"
DASH = "\u2013"
TIMES = "\u00d7"
X0 = "x\u0302\u2080"
XT = "x\u209c"
SPACE = "\u00a0"  # lines do not break at it
