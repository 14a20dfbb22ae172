"""The models and the ways of watching them that `benchmarks.capture` compares."""
