"""Instruments: reference solutions and observed orders (``analysis``), assertions (``checks``), figures (``plots``)."""
