"""Unit tests of the Python program: settings, sizing, each cloud under recorded providers."""
