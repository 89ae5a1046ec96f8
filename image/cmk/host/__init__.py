"""The host seen from the agent: sysfs, procfs, affinity, files. Every path lies under an injectable root."""
