"""Pure model: no I/O, no client types. Everything here is a function of its arguments."""
