"""Faults planted in files: the catalogue, and the self-test that shows that each is caught."""

from validators.faults.files.catalogue import Fault
from validators.faults.files.selftest import CATALOGUE, Row, apply_fault, run_selftest
from validators.faults.files.subject import Damage, DamagePlace

__all__ = ["CATALOGUE", "Damage", "DamagePlace", "Fault", "Row", "apply_fault", "run_selftest"]
