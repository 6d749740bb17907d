"""Debian packages: found, fetched and unpacked side by side, without root."""
