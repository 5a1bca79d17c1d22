"""Runs the Astromesh agent runtime as a service: see the README beside this package."""

__version__ = "0.1.0"
