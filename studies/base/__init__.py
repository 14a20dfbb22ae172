"""What all of a study's parts stand on: its folder and ledger, claims and their verdicts, tasks, sampling, signs."""
