"""Studies: scripts that ask one question each and leave tables, figures and a report."""

from __future__ import annotations

STUDIES = {
    "decodability": "When, and in which layer, does the answer of a run become decodable?",
}

__all__ = ["STUDIES"]
