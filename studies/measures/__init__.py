"""What is measured on runs: answers, probes, energy, masks, swaps, and the tables and findings made of them."""
