"""The classroom kit: check a student's solver, in a process of its own, with measured reasons."""
