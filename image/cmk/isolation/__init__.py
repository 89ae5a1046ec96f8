"""Keeps all others off exclusive cores."""
