"""The snapproof command, profiles, reports, and the entry scripts."""
