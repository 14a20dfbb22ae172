"""Runs of a model for a study: clean ones that studies share, the same under many edits, and their work counted."""
