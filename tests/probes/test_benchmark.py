"""The benchmark of probes runs, and its two sides give the same answers."""

from __future__ import annotations

from benchmarks.probes import Case, Data, differing, loop, main, ours


def test_the_quick_benchmark_runs(capsys):
    main(["--quick"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("logistic N=100", "ridge N=60 d=160 K=3"))


def test_differences_are_counted():
    case = Case("logistic", 60, 8, 3)
    a, b = Data.of(case, 1), Data.of(case, 2)
    assert differing(ours(case, a)[0], loop(case, a, tight=True)[0])[0] == 0
    other = Data((b.cells[1],), b.y, b.fold)
    wrong, total = differing(ours(case, a)[0], loop(case, other)[0])
    assert total == 60 * 5
    assert wrong > 20
