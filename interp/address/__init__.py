"""Hook points and selections; import them from `interp.sites` and `interp.selection`."""
