"""Planted faults: the catalogue, and the self-test that shows each of them being caught."""

from validators.faults.catalogue import Fault
from validators.faults.selftest import CATALOGUE, Row, apply_fault, run_selftest
from validators.faults.subject import Damage, Place

__all__ = ["CATALOGUE", "Damage", "Fault", "Place", "Row", "apply_fault", "run_selftest"]
