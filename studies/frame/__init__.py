"""The frame that every study fills: question, options, outcome, report, the index of all, and what it costs."""
