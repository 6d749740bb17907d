"""Forms in which the results of a run are handed over, to people and to machines."""
