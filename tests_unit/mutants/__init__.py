"""Development tool: break the code in one place, and see whether a unit test notices (docs/mutants.md)."""
