"""Tests snapshots of every kind of guest RAM: backends, huge and merged pages, plugged memory."""
