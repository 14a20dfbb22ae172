"""Figures and pages: every number comes in, none is computed here."""
