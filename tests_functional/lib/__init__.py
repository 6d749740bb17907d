"""Shared parts of the scenarios: boot, write, snapshot, restore and judge, without Avocado or pytest."""
