"""Pools of one host without cluster or agent."""
